"""From pre-training to the next step: weights out of a file, into an MNet for segmentation or into nnU-Net v2.

A `.model` file holds the weights under `state_dict` (nnU-Net v1 reads them there), a `.pth` file of nnU-Net v2
under `network_weights`; both are read. Files are read as tensors and plain values only: no code in them runs.
"""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zssmnet.errors import CheckpointError
from zssmnet.mnet import Merge, MNet
from zssmnet.storage import LocalStorage
from zssmnet.training.tensor_files import is_backed, load_tensors, save_tensors

logger = logging.getLogger(__name__)

WEIGHT_KEYS = ("state_dict", "network_weights")
HEADS = "outputs."
# What DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into names.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Tensors whose shapes tell the network's sizes: the first of each level, and one that takes a merged pair.
FIRST_OF_LEVEL = tuple(
    f"{node}.CB2d.conv1.conv.weight" for node in ("down11", "down12", "down13", "down14", "bottleneck1")
)
TAKES_PAIR = "down22.CB2d.conv1.conv.weight"


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    num_classes: int,
    in_channels: int | None = None,
    merge: Merge = "sub",
    deep_supervision: bool = False,
) -> MNet:
    """An MNet with pre-trained weights and new heads, for fine-tuning (Z-SSMNet, arXiv 2212.05808).

    All tensors but those of the seven heads (`outputs.*`) come from the file, without exception; the heads get
    PyTorch's default initialisation. The channels of the five levels are read off the file.

    Args:
        path: a local `.model` file (weights under `state_dict`) or `.pth` of nnU-Net v2 (`network_weights`).
        num_classes: output channels of the new heads.
        in_channels: input channels; if given, the file must agree.
        merge: the feature merging unit used in pre-training. The file cannot tell "sub" from "sum".
        deep_supervision: whether the network answers with all seven heads.

    Returns:
        The network, on the CPU, in float32 and training mode; it takes (N, in_channels, Z, Y, X).

    Raises:
        CheckpointError: no such file, not a checkpoint, or weights that are not finite or do not fit.
        ValueError: an argument that makes no network.
    """
    path = Path(path)
    weights, wrappers = _read_weights(path)
    found_in_channels, channels = _sizes(path, weights)
    model = MNet(
        found_in_channels if in_channels is None else in_channels,
        num_classes,
        channels,
        merge,
        deep_supervision,
    )
    fresh = model.state_dict()
    heads = [name for name in fresh if name.startswith(HEADS)]
    body = {name: tensor.float() for name, tensor in weights.items() if not name.startswith(HEADS)}
    _check_fit(path, body, model)
    _check_finite(path, body)
    model.load_state_dict(body, strict=False)  # strict but for the heads: _check_fit has seen to it
    logger.info(
        "%d of %d tensors loaded from %s; %d heads initialised anew for %d classes%s",
        *(len(body), len(fresh), path, len(heads), num_classes),
        f"; wrapper's prefix {', '.join(wrappers)} stripped from the names" if wrappers else "",
    )
    return model


def export_nnunet_v2(model_path: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> None:
    """Write a file's weights as a `.pth` for nnU-Net v2: a dict with `network_weights`, all tensors as they are.

    The heads are those of pre-training: they fit a network with as many classes only.

    Args:
        model_path: a file that `load_pretrained` reads.
        out_path: a local file, which appears whole or not at all; an old one is replaced.

    Raises:
        CheckpointError: `model_path` is not usable.
        StorageError: `out_path` cannot be written.
    """
    source, out = Path(model_path), Path(out_path)
    weights, _ = _read_weights(source)
    _sizes(source, weights)
    _check_finite(source, weights)
    folder = LocalStorage(out.parent)
    with folder.publishing(out.name) as partial:
        save_tensors({"network_weights": weights}, partial)
    folder.sweep()


def _read_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by their names in an MNet, and the wrappers whose prefixes were stripped from the names."""
    content = _read(path)
    key = next((key for key in WEIGHT_KEYS if isinstance(content, dict) and key in content), None)
    if key is None:
        found = f"the keys {_some(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise _unusable(path, f"holds {found}, no state_dict; name a .model file that pre-training wrote")
    named = content[key]
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named):
        raise _unusable(path, f"its {key} is no dict of named tensors; name a .model file that pre-training wrote")
    foreign = [name for name, value in named.items() if not _is_dense_float(value)]
    if foreign:
        raise _unusable(
            path,
            f"{len(foreign)} of {len(named)} entries of its {key} are no dense floating-point tensors "
            f"({_some(foreign)}); name a .model file that pre-training wrote",
        )
    return _unwrapped(path, named)


def _read(path: Path) -> Any:
    try:
        return load_tensors(path)
    except FileNotFoundError as error:
        raise _unusable(path, "no such file; weights in remote storage must be copied here first") from error
    except IsADirectoryError as error:
        raise _unusable(path, "is a folder; name the .model file in it") from error
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror or error}); check the file") from error
    except Exception as error:  # on foreign or damaged bytes torch.load raises nearly any type
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is None:
            reason = "is no checkpoint written by torch.save, or damaged or cut short; copy it again"
        else:
            reason = (
                f"holds a Python object ({code[1]}), which is refused because loading it could run code; "
                "if you trust the file, save its weights anew as tensors alone"
            )
        raise _unusable(path, reason) from error


def _unwrapped(path: Path, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    weights: dict[str, Tensor] = {}
    wrappers: dict[str, None] = {}  # a set that keeps the order
    for name, tensor in named.items():
        parts = name.split(".")
        bare = ".".join(part for part in parts if part not in WRAPPERS)
        if bare in weights:
            raise _unusable(path, f"holds {bare} twice, with and without a prefix; keep one of the two")
        weights[bare] = tensor
        wrappers |= dict.fromkeys(part for part in parts if part in WRAPPERS)
    return weights, list(wrappers)


def _sizes(path: Path, weights: Mapping[str, Tensor]) -> tuple[int, tuple[int, int, int, int, int]]:
    """Input channels, and the channels of the five levels."""
    shapes = [tuple(weights[name].shape) if name in weights else () for name in FIRST_OF_LEVEL]
    for name, shape in zip(FIRST_OF_LEVEL, shapes, strict=True):
        if len(shape) != 5 or 0 in shape:
            found = f"has {name} of shape {shape}" if shape else f"lacks {name}"
            raise _unusable(path, f"{found}, so it is no MNet; name a .model file that pre-training wrote")
    one, two, three, four, five = (shape[0] for shape in shapes)
    return shapes[0][1], (one, two, three, four, five)


def _check_fit(path: Path, body: Mapping[str, Tensor], model: MNet) -> None:
    """Everything but the heads is there, nothing else is, and every shape is right."""
    shapes = {name: t.shape for name, t in model.state_dict().items() if not name.startswith(HEADS)}
    misfits = {
        "missing": [name for name in shapes if name not in body],
        "unexpected": [name for name in body if name not in shapes],
        "of another shape": [
            f"{name} {tuple(body[name].shape)} for {tuple(shape)}"
            for name, shape in shapes.items()
            if name in body and body[name].shape != shape
        ],
    }
    found = [f"{len(names)} {what} ({_some(names)})" for what, names in misfits.items() if names]
    if found:
        raise _unusable(path, f"does not fit: of {len(shapes)} tensors {', '.join(found)}; {_advice(body, model)}")


def _advice(body: Mapping[str, Tensor], model: MNet) -> str:
    in_channels = body[FIRST_OF_LEVEL[0]].shape[1]
    if in_channels != model.in_channels:
        return f"pass in_channels={in_channels}, or leave it out"
    pair = tuple(body[TAKES_PAIR].shape) if TAKES_PAIR in body else ()
    concatenated = pair[1:2] == (2 * model.channels[1],)
    if concatenated and model.merge != "cat":
        return 'pass merge="cat"'
    if not concatenated and pair and model.merge == "cat":
        return 'pass merge="sub" or "sum", as in pre-training'
    return "name a .model file that pre-training wrote"


def _check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    bad = [name for name, tensor in weights.items() if not tensor.float().isfinite().all()]
    if bad:
        raise _unusable(
            path,
            f"{len(bad)} of {len(weights)} tensors hold NaN or infinity ({_some(bad)}): training had diverged; "
            "take an earlier checkpoint",
        )


def _is_dense_float(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and value.device.type == "cpu"  # a meta tensor has no values
        and is_backed(value)
    )


def _some(names: Iterable[object]) -> str:
    """The first three, shortened, and how many more."""
    listed = [str(name)[:120] for name in names]
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _unusable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(" ".join(f"{path}: {reason}".splitlines()))
