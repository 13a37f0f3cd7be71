"""Weights read from a file or a package, with what is known of their network.

A `.model` file holds the weights under `state_dict` (nnU-Net v1 reads them there), a `.pth` file of nnU-Net v2 under
`network_weights`, a package (see `zssmnet.handoff.package`) in `model.safetensors`. Only tensors and plain values are
read: no code in a file runs.
"""

import errno
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from zssmnet.config import IntensityScaling
from zssmnet.data.archive import shortened
from zssmnet.errors import CheckpointError, StorageError
from zssmnet.mnet import Merge
from zssmnet.preparation.cubes import Spacing
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import Address, LocalStorage, Storage, folder_and_name
from zssmnet.storage.records import present_outputs, read_record
from zssmnet.training.tensor_files import is_backed, load_tensors

log = logging.getLogger(__name__)

Channels = tuple[int, int, int, int, int]
WEIGHT_KEYS = ("state_dict", "network_weights")
NETWORK_KEY = "zssmnet"
"""Entry of an exported file, and of nnU-Net's plans, with the network's `channels` and `merge`."""
HEADS = "outputs."
PACKAGE_WEIGHTS, PACKAGE_CONFIG = "model.safetensors", "config.json"
# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Tensors whose shapes give the network's sizes: the first of each level, and one that takes a merged pair.
FIRST_OF_LEVEL = tuple(
    f"{node}.CB2d.conv1.conv.weight" for node in ("down11", "down12", "down13", "down14", "bottleneck1")
)
TAKES_PAIR = "down22.CB2d.conv1.conv.weight"
_SEES_INPUT = ("down11.CB2d.conv1.", "down11.CB3d.conv1.")


@dataclass(frozen=True)
class Weights:
    """The weights of an MNet.

    Attributes:
        address: of the file, for messages.
        path: the file, or a cached copy of it.
        tensors: by their names in `MNet`.
        wrappers: wrappers whose prefixes were stripped from the names.
        merge: the feature merging unit by the file, its record or the shapes; "sub" where none of them has it.
        spacing_mm, intensity_scaling: of the cubes that they saw, by the record or the file; None if neither has it.
        record: of the published model in this file; None where none lies beside it.
    """

    address: str
    path: Path
    tensors: dict[str, Tensor]
    wrappers: tuple[str, ...]
    in_channels: int
    channels: Channels
    merge: Merge
    spacing_mm: Spacing | None = None
    intensity_scaling: IntensityScaling | None = None
    record: PretrainedModel | None = None

    @property
    def body(self) -> dict[str, Tensor]:
        """All tensors but the heads'."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(HEADS)}

    def with_channels(self, count: int) -> "Weights":
        """The weights of the network that sees the first channels alone: as if the others were 0 everywhere."""
        first = {
            name: tensor[:, :count].contiguous() if tensor.dim() == 5 and name.startswith(_SEES_INPUT) else tensor
            for name, tensor in self.tensors.items()
        }
        return replace(self, tensors=first, in_channels=count)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads' tensors."""
        return tuple(name for name in self.tensors if name.startswith(HEADS))


def read_weights(address: Address) -> Weights:
    """Read weights from a `.model` or `.pth` file, or from a package's folder, local or in S3. Nothing is written.

    Raises:
        CheckpointError: no such file, not a checkpoint, or not the weights of an MNet.
        StorageError: S3 does not have the file, or does not answer.
    """
    folder, name = folder_and_name(address)
    package = folder if name == PACKAGE_WEIGHTS else folder.child(name)
    if package.stat(PACKAGE_CONFIG):
        folder, name = package, PACKAGE_WEIGHTS
        content, record = _read_package(folder), None
    else:
        content, record = _read(folder, name), record_in(folder, name)
    where = folder.where(name)
    tensors, wrappers = _tensors(where, content)
    in_channels, channels = _sizes(where, tensors)
    noted = _noted(content)
    by_shape: Merge = "cat" if takes_concatenated(tensors, channels) else "sub"
    merge = noted.merge or (record.parameters.network.merge if record else by_shape)
    spacing_mm, scaling = (record or noted).spacing_mm, (record or noted).intensity_scaling
    path = _local(folder, name)
    return Weights(where, path, tensors, wrappers, in_channels, channels, merge, spacing_mm, scaling, record)


class _Noted(BaseModel):
    """What an exported file, or a package, says of its weights."""

    merge: Merge | None = None
    spacing_mm: Spacing | None = Field(None, alias="spacing_mm_xyz")
    intensity_scaling: IntensityScaling | None = None


def _noted(content: Any) -> _Noted:
    try:
        return _Noted.model_validate(content.get(NETWORK_KEY))
    except ValidationError:  # none, or that of another program
        return _Noted()


def record_in(folder: Storage, name: str) -> PretrainedModel | None:
    """The record of a published model, if it lies beside its file and is that of its content."""
    record = read_record(folder, name, PretrainedModel)
    if record and present_outputs(folder, record.outputs) is None:
        log.warning("%s: does not match the record beside it, which is not used", folder.where(name))
        return None
    return record


def takes_concatenated(tensors: Mapping[str, Tensor], channels: Sequence[int]) -> bool:
    """Whether the shapes are those of the merging unit "cat"."""
    return TAKES_PAIR in tensors and tuple(tensors[TAKES_PAIR].shape[1:2]) == (2 * channels[1],)


def check_finite(address: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError if a weight is not finite."""
    if bad := [name for name, tensor in tensors.items() if not tensor.float().isfinite().all()]:
        found = f"{len(bad)} of {len(tensors)} tensors hold NaN or infinity ({some(bad)})"
        raise unusable(address, f"{found}: training had diverged; take an earlier checkpoint")


def some(names: Iterable[object]) -> str:
    """The first three, shortened, and how many more."""
    return shortened((str(name)[:120] for name in names), 3)


def unusable(address: str, reason: str) -> CheckpointError:
    """A one-line error about a file of weights."""
    return CheckpointError(" ".join(f"{address}: {reason}".splitlines()))


def _local(folder: Storage, name: str) -> Path:
    """A local path of a file; on a disk it need not be there."""
    return folder.folder / name if isinstance(folder, LocalStorage) else folder.local(name)


def _read_package(folder: Storage) -> dict[str, Any]:
    """A package in the form of an exported file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder.where(PACKAGE_WEIGHTS)
    try:
        config = json.loads(folder.read(PACKAGE_CONFIG))
        return {"state_dict": load_file(_local(folder, PACKAGE_WEIGHTS)), NETWORK_KEY: config}
    except (ValueError, RecursionError) as error:
        reason = "is no JSON file, or damaged; download the package again"
        raise unusable(folder.where(PACKAGE_CONFIG), reason) from error
    except OSError as error:
        raise unusable(file, f"cannot be read ({error.strerror or error}); download the package again") from error
    except SafetensorError as error:
        raise unusable(file, "is no safetensors file, or damaged or cut short; download it again") from error


def _read(folder: Storage, name: str) -> Any:
    try:
        return load_tensors(_local(folder, name))
    except StorageError:
        raise
    except Exception as error:  # on foreign or damaged bytes torch.load raises nearly any type
        raise unusable(folder.where(name), _reason(error)) from error


def _reason(error: Exception) -> str:
    """Why no tensors can be read, and what to do."""
    match error:
        case FileNotFoundError():
            return "no such file; name the .model file that pre-training wrote"
        case IsADirectoryError():
            return f"is a folder without a package's {PACKAGE_CONFIG}; name the .model file in it"
        case OSError(errno=number) if number != errno.EINVAL:  # which PyTorch's reader gives where a file ends early
            return f"cannot be read ({error.strerror or error}); check the file"
    if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"holds a Python object ({code[1]}), which is refused because loading it could run code; "
            "if you trust the file, save its weights anew as tensors alone"
        )
    return "is no checkpoint written by torch.save, or damaged or cut short; copy it again"


def _tensors(address: str, content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors by their names in an MNet, and the wrappers whose prefixes were stripped from the names."""
    key = next((key for key in WEIGHT_KEYS if isinstance(content, dict) and key in content), None)
    if key is None:
        found = f"the keys {some(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise unusable(address, f"holds {found}, no state_dict; name a .model file that pre-training wrote")
    named = content[key]
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named):
        raise unusable(address, f"its {key} is no dict of named tensors; name a .model file that pre-training wrote")
    if foreign := [name for name, value in named.items() if not _is_dense_float(value)]:
        found = f"{len(foreign)} of {len(named)} entries of its {key} are no dense floating-point tensors"
        raise unusable(address, f"{found} ({some(foreign)}); name a .model file that pre-training wrote")
    weights = dict[str, Tensor]()
    for name, tensor in named.items():
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if bare in weights:
            raise unusable(address, f"holds {bare} twice, with and without a prefix; keep one of the two")
        weights[bare] = tensor
    parts = dict.fromkeys(part for name in named for part in name.split("."))  # in their order
    return weights, tuple(part for part in parts if part in WRAPPERS)


def _sizes(address: str, weights: Mapping[str, Tensor]) -> tuple[int, Channels]:
    """Input channels, and the channels of the five levels."""
    shapes = [tuple(weights[name].shape) if name in weights else () for name in FIRST_OF_LEVEL]
    for name, shape in zip(FIRST_OF_LEVEL, shapes, strict=True):
        if len(shape) != 5 or 0 in shape:
            found = f"has {name} of shape {shape}" if shape else f"lacks {name}"
            raise unusable(address, f"{found}, so it is no MNet; name a .model file that pre-training wrote")
    one, two, three, four, five = (shape[0] for shape in shapes)
    return shapes[0][1], (one, two, three, four, five)


def _is_dense_float(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and value.device.type == "cpu"  # a meta tensor has no values
        and is_backed(value)
    )
