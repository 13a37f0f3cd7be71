"""Weights as the files that nnU-Net v2 and v1 take as pre-trained weights."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from zssmnet.errors import InputError
from zssmnet.handoff.load import LoadReport, load_body
from zssmnet.handoff.weights import HEADS, NETWORK_KEY, read_weights, record_in
from zssmnet.mnet import MNet
from zssmnet.storage import Address, LocalStorage
from zssmnet.storage.address import local_path
from zssmnet.storage.ownership import check_ours
from zssmnet.training.tensor_files import load_tensors, save_tensors

log = logging.getLogger(__name__)

SEGMENTATION_HEADS = "outputs.seg_layers."
"""Names of the heads in nnU-Net v2, which takes no tensor with `.seg_layers.` in its name from pre-trained weights."""


def export_nnunet_v2(
    model_path: Address, out_path: Address, num_classes: int | None = None, force: bool = False
) -> LoadReport:
    """Write a `.pth` that nnU-Net v2 takes as ``-pretrained_weights``.

    nnU-Net v2 demands every tensor of the network whose name has no `.seg_layers.` in it, in the same shape.

    Args:
        model_path: what `load_pretrained` reads.
        out_path: a local file, which appears whole or not at all; an earlier export is replaced.
        num_classes: without it the file holds the 336 tensors beside the heads, which the trainers of
            `zssmnet.handoff.nnunet_trainer` take with any number of classes. With it there are new heads of that
            many classes too, under the names of those trainers (`outputs.seg_layers.*`) and of `MNet` (`outputs.*`):
            the file then fits a trainer around a plain `MNet` as well.
        force: whether a file that is no export may be replaced, too.

    Returns:
        What is in the file, and what was left out.

    Raises:
        CheckpointError: `model_path` is not usable.
        InputError: `out_path` is the file of `model_path`, another published model, or no export.
        ValueError: `num_classes` is less than 1.
        StorageError: `out_path` cannot be written.
    """
    return _export("network_weights", model_path, out_path, num_classes, force)


def export_nnunet_v1(model_path: Address, out_path: Address, force: bool = False) -> LoadReport:
    """Write a `.model` that nnU-Net v1 takes as pre-trained weights: without heads.

    nnU-Net v1 takes every tensor that has the name and shape of one of the network's, so that with three classes heads
    that restore images would become heads that segment. Of the published network's 343 tensors it takes these 336.

    Arguments, result and errors are those of `export_nnunet_v2`.
    """
    return _export("state_dict", model_path, out_path, None, force)


def _export(key: str, model_path: Address, out_path: Address, num_classes: int | None, force: bool) -> LoadReport:
    weights, path = read_weights(model_path), local_path(out_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # new heads are the same in every export
        model = MNet(weights.in_channels, 1 if num_classes is None else num_classes, weights.channels, weights.merge)
    report = replace(load_body(model, weights), reason="heads belong to another task")
    log.info("%s", report)
    tensors, heads = model.state_dict(), report.initialised if num_classes is not None else ()
    exported = {name: tensors[name] for name in (*report.taken, *heads)}
    exported |= {name.replace(HEADS, SEGMENTATION_HEADS): tensors[name].clone() for name in heads}
    folder, out = LocalStorage(path.parent), path.resolve()
    if (out.exists() and out.samefile(weights.path)) or record_in(LocalStorage(out.parent), out.name):
        raise InputError(f"{out}: holds pre-trained weights, which an export would replace; name another file")
    check_ours(folder, path.name, _is_export, force)
    network = {"in_channels": weights.in_channels, "channels": list(weights.channels), "merge": weights.merge}
    cubes = {"spacing_mm_xyz": weights.spacing_mm, "intensity_scaling": weights.intensity_scaling}
    network |= {name: value for name, value in cubes.items() if value}
    with folder.publishing(path.name) as partial:
        save_tensors({key: exported, NETWORK_KEY: network}, partial)
    folder.sweep()
    return report


def _is_export(file: Path) -> bool:
    try:
        content = load_tensors(file)
    except Exception:  # foreign bytes lead to nearly any type
        return False
    return isinstance(content, dict) and NETWORK_KEY in content
