"""Every environment variable that this program reads: type, bounds, default, meaning. ``docs/configuration.md`` has
the same table. A variable is checked where it is used, and only there."""

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from zssmnet.errors import ConfigError, InputError
from zssmnet.storage.address import checked_address, local_path
from zssmnet.storage.keys import printable


def _word(text: str) -> str:
    if re.search(r"[\s\"']", text):
        raise ValueError("has a space, line break or quotation mark in it, as of a file that is not read by a shell")
    return text


_Word = Annotated[str, AfterValidator(_word)]
_Address = Annotated[str, AfterValidator(checked_address), Field(title="folder or s3://bucket/prefix")]
_Folder = Annotated[str, AfterValidator(lambda text: local_path(text).absolute()), Field(title="local folder")]


class Environment(BaseModel):
    """The variables. One that is not set, or empty, has its default."""

    model_config = ConfigDict(allow_inf_nan=False)

    ZSSMNET_CACHE: _Folder = Field(
        "~/.cache/zssmnet", description="copies of files that lie on S3, files while they are sent there"
    )
    ZSSMNET_CACHE_GB: float = Field(
        50.0, ge=0, le=1e6, description="GB of these copies; the least recently used ones go first"
    )
    ZSSMNET_WEIGHTS: str = Field("", description="weights from which our trainers of nnU-Net start")
    ZSSMNET_DASK_ADDRESS: str = Field(
        "", description="scheduler of a Dask cluster for preparation and cubes of a flow: `tcp://host:8786`"
    )
    ZSSMNET_IMAGES: _Address = Field("", description="images with which `make deploy` lets deployments start")
    ZSSMNET_MASKS: _Address = Field("", description="zonal masks, likewise")
    ZSSMNET_ZONES_MODEL: _Address = Field("", description="networks that make zonal masks, likewise")
    ZSSMNET_SPLITS: _Address = Field("", description="splits.json, likewise")
    ZSSMNET_ROOT: _Address = Field("", description="working root, likewise")
    ZSSMNET_BUCKET: str = Field(
        "", pattern=r"^[^/:\s]*$", description="bucket for the results of runs; `make deploy` makes it"
    )
    ZSSMNET_GPU_WORKERS: int = Field(1, ge=1, le=1024, description="workers that share the GPUs of a machine")
    AWS_ENDPOINT_URL: _Word = Field("", description="S3 storage, as for all its tools: `https://host:9000`")
    AWS_ACCESS_KEY_ID: _Word = Field("", description="key for it")
    AWS_SECRET_ACCESS_KEY: _Word = Field("", description="secret key for it")
    AWS_SESSION_TOKEN: _Word = Field("", description="token of temporary keys")
    AWS_PROFILE: str = Field("", description="or a profile of `~/.aws` with both")
    AWS_DEFAULT_REGION: _Word = Field("", description="region of the storage, where it has several")
    PREFECT_API_URL: str = Field(
        "",
        description="a Prefect server: commands run as flows there; without it, and without `--prefect`, they run "
        "without Prefect",
    )
    PREFECT__FLOW_RUN_ID: str = Field("", description="set by Prefect's workers for the runs of deployments")
    CUDA_VISIBLE_DEVICES: str = Field("", description="GPUs that `make service` may use; empty: all")
    TORCHELASTIC_RUN_ID: str = Field("", description="set by torchrun; without it the following do not count")
    TORCHELASTIC_RESTART_COUNT: str = Field("0", description="set by torchrun")
    RANK: int | None = Field(None, ge=0, description="set by torchrun")
    WORLD_SIZE: int | None = Field(None, ge=1, description="set by torchrun")
    LOCAL_RANK: int | None = Field(None, ge=0, description="set by torchrun")
    MASTER_PORT: int | None = Field(None, ge=1, le=65535, description="set by torchrun")


def variable(name: str) -> Any:
    """The value of a variable that `Environment` declares.

    Raises:
        ConfigError: it has another type, or is out of bounds.
    """
    field, text = Environment.model_fields[name], os.environ.get(name, "").strip()
    if not (text or field.default):
        return field.default
    try:
        annotation: Any = Annotated[field.annotation, field]
        return TypeAdapter(annotation, config=Environment.model_config).validate_python(text or field.default)
    except (ValidationError, InputError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        reason = first.removeprefix("Value error, ")
        shown = "..." if re.search("KEY|TOKEN", name) else printable(text)
        raise ConfigError(f"{name}={shown}: {reason}; set it to its default, {field.default!r}, or unset it") from None
