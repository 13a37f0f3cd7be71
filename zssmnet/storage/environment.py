"""Every environment variable that this program reads: type, bounds, default, meaning. ``docs/configuration.md`` has
the same table. A variable is checked where it is used, and only there."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from zssmnet.errors import ConfigError, InputError
from zssmnet.storage.address import checked_address, local_path


def _address(text: str) -> str:
    try:
        return checked_address(text)
    except InputError as error:
        raise ValueError(str(error)) from error


def _folder(text: str) -> Path:
    try:
        folder = local_path(text)
    except InputError as error:
        raise ValueError(str(error)) from error
    if folder.parts[0].startswith("~"):
        raise ValueError(f"the home {folder.parts[0]} is not known; name the whole path")
    return folder.absolute()


_Address = Annotated[str, AfterValidator(_address), Field(title="folder or s3://bucket/prefix")]
_Folder = Annotated[str, AfterValidator(_folder), Field(title="local folder")]


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
    AWS_ENDPOINT_URL: str = Field("", description="S3 storage, as for all its tools: `https://host:9000`")
    AWS_ACCESS_KEY_ID: str = Field("", description="key for it")
    AWS_SECRET_ACCESS_KEY: str = Field("", description="secret key for it")
    AWS_PROFILE: str = Field("", description="or a profile of `~/.aws` with both")
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
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{name}={text}: {reason}; set it to its default, {field.default!r}, or unset it") from error
