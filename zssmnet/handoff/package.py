"""A folder to publish weights in: safetensors, config.json, a model card, and nnssl's adaptation plan."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zssmnet.config import CubesConfig, PackageConfig, PreparationConfig
from zssmnet.data.archive import CHANNELS, shortened
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.errors import InputError, StorageError
from zssmnet.handoff.network_input import CHANNEL_NAMES
from zssmnet.handoff.weights import PACKAGE_CONFIG, PACKAGE_WEIGHTS, Weights, check_finite, read_weights
from zssmnet.preparation.cropping import Triple
from zssmnet.preparation.cubes import HIGHEST_ADC, Spacing, size_of_cubes
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import LocalStorage, read_file, sha256_of
from zssmnet.storage.ownership import check_ours

log = logging.getLogger(__name__)

CARD, ADAPTATION_PLAN = "README.md", "adaptation_plan.json"
CITATIONS = {
    "Z-SSMNet": "Yuan et al., Z-SSMNet: Zonal-aware self-supervised mesh network for prostate cancer detection and "
    "diagnosis with bi-parametric MRI, https://arxiv.org/abs/2212.05808",
    "MNet": "Dong et al., MNet: Rethinking 2D/3D networks for anisotropic medical image segmentation, IJCAI 2022, "
    "https://arxiv.org/abs/2205.04846",
    "Models Genesis": "Zhou et al., Models Genesis, Medical Image Analysis 67:101840, 2021",
}
_HEADER = """\
---
license: {licence}
library_name: zssmnet
tags: [prostate, mri, bpmri, self-supervised, pre-training, medical-imaging, mnet]
---
# {name}

MNet, pre-trained on bi-parametric prostate MRI (T2W, ADC, high b-value DWI and zonal masks) to restore corrupted cubes,
as Z-SSMNet (arXiv 2212.05808) describes it. For fine-tuning on the detection of clinically significant prostate cancer;
no medical device, and no detector as it is.
"""
_HOW_TO_LOAD = """
## How to load it

```python
import zssmnet

model = zssmnet.load_pretrained("path/to/this/folder", num_classes=2)
```

The input has the axes (N, C, Z, Y, X) and the channels {channels}; `zssmnet.network_input` makes it from files.
Intensities and spacing are in `{config}`.

## Please cite
"""
PICAI_CASE = re.compile(r"1\d{4}_100\d{4}")
"""Ids of PI-CAI's public cases, whose licence is CC BY-NC 4.0: weights made from them are non-commercial, too."""
PICAI_LICENCE = "cc-by-nc-4.0"
_ASSUMED = "; the spacing is the published one, as it was not recorded"


def write_package(
    model_path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    config: PackageConfig = PackageConfig(),
) -> Path:
    """Write weights as a package, which `load_pretrained(folder)` loads.

    The card has the number of cases, settings and validation figures as far as the record beside `model_path` knows
    them. It names no case.

    Args:
        model_path: what `load_pretrained` reads.
        folder: a local folder; files of an earlier package there are replaced.
        config: the name and the licence on the card, and the probe's result. Without a licence it is that of PI-CAI
            where the weights have seen its cases, else a field to be filled in.

    Raises:
        CheckpointError: `model_path` is not usable.
        InputError: the probe's file is no JSON object, another file has the name of one of the package, or the licence
            contradicts that of the cases.
        StorageError: the folder cannot be written, or the probe's file not be read.
    """
    from safetensors.torch import save

    weights = read_weights(model_path)
    check_finite(weights.address, weights.tensors)
    config = config.model_copy(update={"licence": _licence(weights, config)})
    card = _card(weights, config, _read_probe(config.probe_path))
    output = LocalStorage(folder)
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    files = {
        PACKAGE_WEIGHTS: save(tensors, metadata={"format": "pt"}),
        ADAPTATION_PLAN: _as_json(_adaptation_plan(weights)),
        CARD: card.encode(),
    }
    earlier, made = _made_earlier(output), {hashlib.sha256(content).hexdigest() for content in files.values()}
    for key in files:
        check_ours(output, key, lambda file: sha256_of(file) in earlier | made, config.force)
    check_ours(output, PACKAGE_CONFIG, lambda file: bool(earlier), config.force)
    output.sweep()
    described = _config(weights, config)
    # First the marker, with the earlier files in it: whatever a killed call leaves behind is known as ours.
    output.publish_bytes(PACKAGE_CONFIG, _as_json(described | {"files_sha256": sorted(earlier | made)}))
    for key, content in {**files, PACKAGE_CONFIG: _as_json(described | {"files_sha256": sorted(made)})}.items():
        output.publish_bytes(key, content)
    log.info("%s: %d tensors of %s", output.folder, len(tensors), weights.address)
    return output.folder


def _licence(weights: Weights, config: PackageConfig) -> str:
    """The licence on the card: non-commercial where a case of PI-CAI was trained on or validated with."""
    data = weights.record.data if weights.record else ()
    ids = [case.case_id for case in data if PICAI_CASE.fullmatch(case.case_id)]
    if not ids:
        return config.licence
    if config.licence == PackageConfig().licence:
        return PICAI_LICENCE
    if "-nc" not in config.licence.lower() and not config.force:
        raise InputError(
            f"the licence {config.licence!r} contradicts that of the cases: {len(ids)} of {len(data)} have ids of "
            f"PI-CAI ({shortened(ids, 2)}), whose data are {PICAI_LICENCE}; give --licence {PICAI_LICENCE}, or --force "
            "if they are other cases"
        )
    return config.licence


def _as_json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


def _made_earlier(output: LocalStorage) -> set[str]:
    """SHA-256 of the files that earlier calls have written into this folder, as its config.json lists them."""
    try:
        return set(map(str, json.loads(output.read(PACKAGE_CONFIG))["files_sha256"]))
    except (StorageError, ValueError, LookupError, TypeError):  # none, or of another program
        return set()


def _spacing_mm(record: PretrainedModel | None) -> Spacing:
    """Spacing x, y, z of the cubes, as recorded; else the published method's."""
    return (record and record.spacing_mm) or PreparationConfig().spacing_mm


def _cube_size(record: PretrainedModel | None) -> Triple:
    """Size x, y, z of the cubes in voxels, as recorded; else the published method's."""
    return (record and size_of_cubes(record.inputs[0].name)) or CubesConfig().size


def _config(weights: Weights, config: PackageConfig) -> dict[str, Any]:
    """What is needed to build the network and its input."""
    record = weights.record
    scaled = (
        f"0..1 by {'percentiles' if record and record.intensity_scaling == 'percentile' else 'minimum and maximum'}"
    )
    return {
        "architecture": "MNet",
        "in_channels": weights.in_channels,
        "channels": list(weights.channels),
        "merge": weights.merge,
        "input_channels": list(CHANNEL_NAMES),
        "input_axes": "N, C, Z, Y, X",
        "intensities": {"T2W": scaled, "ADC": f"clipped to 0..{HIGHEST_ADC:g}, divided by it"}
        | {"DWI": scaled, "zones": "one-hot"},
        "spacing_mm_xyz": list(_spacing_mm(record)),
        "patch_size_zyx": list(_cube_size(record))[::-1],
        "library": "zssmnet",
        "library_version": version("zssmnet"),
        "run_id": record.run_id if record else None,
        "license": config.licence,
        "citations": CITATIONS,
    }


def _adaptation_plan(weights: Weights) -> dict[str, Any]:
    """The fields that nnssl's adaptation plan has, for the network that it does not know."""
    patch_ZYX = list(_cube_size(weights.record))[::-1]
    return {
        "architecture_plans": {
            "arch_class_name": "zssmnet.MNet",
            "arch_kwargs": {"channels": list(weights.channels), "merge": weights.merge},
            "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {
            "spacing_zyx": list(_spacing_mm(weights.record))[::-1],
            "patch_size": patch_ZYX,
            "normalization": "none: see intensities in config.json",
        },
        "pretrain_num_input_channels": weights.in_channels,
        "recommended_downstream_patchsize": patch_ZYX,
        "key_to_encoder": "down",
        "key_to_stem": "down11",
        "keys_to_in_proj": ["down11.CB2d.conv1.conv", "down11.CB3d.conv1.conv"],
        "key_to_lpe": None,
        "citations": CITATIONS,
    }


def _card(weights: Weights, config: PackageConfig, probe: Mapping[str, Any] | None) -> str:
    """The model card, in the form of the field's model hubs: Markdown after a YAML header."""
    record = weights.record
    to_fill = "  # to be filled in: the licence of these weights" if config.licence == PackageConfig().licence else ""
    voxels, mm = (" x ".join(f"{one:g}" for one in of) for of in (_cube_size(record), _spacing_mm(record)))
    cubes = f"- cubes of {voxels} voxels of {mm} mm (x, y, z)"
    lines = [
        _HEADER.format(licence=config.licence + to_fill, name=config.name),
        "## Training data\n",
        *(_data(record) if record and record.data else ["- no record of the cases lies beside the weights"]),
        "\n## Network and settings\n",
        f"- MNet with the channels {', '.join(map(str, weights.channels))}, merging unit `{weights.merge}`, "
        f"{weights.in_channels} input channels",
        *(
            [cubes + ("" if record.spacing_mm else _ASSUMED), *_settings(record)]
            if record
            else [f"{cubes}, as published; no record of the settings lies beside the weights"]
        ),
        "\n## Validation\n",
        *(_validation(record) if record else ["- no record lies beside the weights"]),
        *([] if probe is None else ["\n## Does it help? The probe's result\n", *_probe(probe)]),
        _HOW_TO_LOAD.format(channels=", ".join(CHANNEL_NAMES), config=PACKAGE_CONFIG),
        *(f"- {citation}" for citation in CITATIONS.values()),
    ]
    return "\n".join(lines) + "\n"


def _data(record: PretrainedModel) -> list[str]:
    validation = sum(case.subset == VALIDATION_SUBSET for case in record.data)
    return [
        f"- {len(record.data)} cases: {len(record.data) - validation} trained on, {validation} validated with",
        "- centres: not recorded",
    ]


def _settings(record: PretrainedModel) -> list[str]:
    training, corruption = record.parameters.training, record.parameters.corruption
    return [
        f"- corruption: `{corruption.recipe}`; seed {training.seed}",
        f"- optimizer `{training.optimizer}`, momentum {training.momentum:g}, learning rate "
        f"{training.learning_rate:g}, schedule `{training.schedule}`, batches of {training.batch_size} cubes",
        f"- epochs: {len(record.history)}, of which the best is number {record.best_epoch}",
        f"- device `{record.device or 'not recorded'}`, precision `{record.precision}`, run `{record.run_id}`",
        f"- versions: {', '.join(f'{name} {number}' for name, number in sorted(record.versions.items()))}",
    ]


def _validation(record: PretrainedModel) -> list[str]:
    lines = [f"- validation loss (mean squared error of the restored images): {record.best_validation_loss:.5f}"]
    if (explained := record.metrics.get("explained_variance")) is not None:
        lines.append(
            f"- explained variance of the restored images: {100 * explained:.1f} % (100 % is perfect, 0 % what the "
            "best constant for each channel has)"
        )
    if by_channel := record.best.explained_by_channel:
        lines.append(
            "- of each alone: " + ", ".join(f"{n} {100 * x:.1f} %" for n, x in zip(CHANNELS, by_channel, strict=True))
        )
    return lines


def _probe(probe: Mapping[str, Any]) -> list[str]:
    """The probe's single values, and the sentence of each verdict; neither names a case."""
    return [
        *(f"- {name}: {value}" for name, value in probe.items() if isinstance(value, str | int | float)),
        *(f"- {one['sentence']}" for one in probe.get("verdicts", ()) if isinstance(one, dict) and "sentence" in one),
    ]


def _read_probe(address: str | None) -> Mapping[str, Any] | None:
    if address is None:
        return None
    try:
        content = json.loads(read_file(address))
    except ValueError as error:
        raise InputError(f"{address}: is no JSON file; name the probe's JSON file") from error
    if not isinstance(content, dict):
        raise InputError(f"{address}: holds a {type(content).__name__}, not the probe's figures by name")
    return content
