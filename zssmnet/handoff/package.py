"""A folder to publish weights in: safetensors, config.json, a model card, and nnssl's adaptation plan."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable
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
from zssmnet.storage import Address, LocalStorage, read_file, sha256_of
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
PICAI_CASE = re.compile(r"1\d{4}_100\d{4}")
"""Ids of PI-CAI's public cases, whose licence is CC BY-NC 4.0: weights made from them are non-commercial, too."""
PICAI_LICENCE = "cc-by-nc-4.0"
_NO_LICENCE = PackageConfig().licence


def write_package(model_path: Address, folder: Address, config: PackageConfig = PackageConfig()) -> Path:
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
    if weights.path.name == PACKAGE_WEIGHTS:
        raise InputError(
            f"{model_path}: is a package already, whose record is not in it; name the file it was made from"
        )
    check_finite(weights.address, weights.tensors)
    licence = _licence(weights, config)
    card = _card(weights, licence, config)
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
    described = _description(weights, licence)
    # First the marker, with the earlier files in it: whatever a killed call leaves behind is known as ours.
    output.publish_bytes(PACKAGE_CONFIG, _as_json(described | {"files_sha256": sorted(earlier | made)}))
    for key, content in files.items():
        output.publish_bytes(key, content)
    output.publish_bytes(PACKAGE_CONFIG, _as_json(described | {"files_sha256": sorted(made)}))
    log.info("%s: %d tensors of %s", output.folder, len(tensors), weights.address)
    return output.folder


def _licence(weights: Weights, config: PackageConfig) -> str:
    """The licence on the card: non-commercial where a case of PI-CAI was trained on or validated with."""
    data = weights.record.data if weights.record else ()
    ids = [case.case_id for case in data if PICAI_CASE.fullmatch(case.case_id)]
    if not ids:
        return config.licence
    if config.licence == _NO_LICENCE:
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


def _cubes(weights: Weights) -> tuple[Triple, Spacing]:
    """Size in voxels and spacing in mm of the cubes, x, y, z, as recorded; else the published method's."""
    record = weights.record
    size = (record and size_of_cubes(record.inputs[0].name)) or CubesConfig().size
    return size, weights.spacing_mm or PreparationConfig().spacing_mm


def _description(weights: Weights, licence: str) -> dict[str, Any]:
    """What is needed to build the network and its input."""
    record, (size, spacing_mm) = weights.record, _cubes(weights)
    by = "percentiles" if weights.intensity_scaling == "percentile" else "minimum and maximum"
    adc = f"clipped to 0..{HIGHEST_ADC:g}, divided by it"
    return {
        "architecture": "MNet",
        "in_channels": weights.in_channels,
        "channels": list(weights.channels),
        "merge": weights.merge,
        "input_channels": list(CHANNEL_NAMES),
        "input_axes": "N, C, Z, Y, X",
        "intensity_scaling": weights.intensity_scaling,
        "intensities": {"T2W": f"0..1 by {by}", "ADC": adc, "DWI": f"0..1 by {by}", "zones": "one-hot"},
        "spacing_mm_xyz": list(spacing_mm),
        "patch_size_zyx": list(size)[::-1],
        "library": "zssmnet",
        "library_version": version("zssmnet"),
        "run_id": record.run_id if record else None,
        "license": licence,
        "citations": CITATIONS,
    }


def _adaptation_plan(weights: Weights) -> dict[str, Any]:
    """The fields that nnssl's adaptation plan has, for the network that it does not know."""
    patch_ZYX, spacing_ZYX = (list(one)[::-1] for one in _cubes(weights))
    return {
        "architecture_plans": {
            "arch_class_name": "zssmnet.MNet",
            "arch_kwargs": {"channels": list(weights.channels), "merge": weights.merge},
            "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {
            "spacing_zyx": spacing_ZYX,
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


def _card(weights: Weights, licence: str, config: PackageConfig) -> str:
    """The model card, in the form of the field's model hubs: Markdown after a YAML header."""
    record = weights.record
    to_fill = "  # to be filled in: the licence of these weights" if licence == _NO_LICENCE else ""
    voxels, mm = (" x ".join(f"{one:g}" for one in of) for of in _cubes(weights))
    data, validation = ["no record of the cases lies beside the weights"], ["no record lies beside the weights"]
    settings = [
        f"MNet with the channels {', '.join(map(str, weights.channels))}, merging unit `{weights.merge}`, "
        f"{weights.in_channels} input channels",
        f"cubes of {voxels} voxels of {mm} mm (x, y, z)",
    ]
    if record is None:
        settings[1] += ", as published; no record of the settings lies beside the weights"
    else:
        settings[1] += "" if record.spacing_mm else "; the spacing is the published one, as it was not recorded"
        settings += _settings(record)
        validation = _validation(record)
    if record and record.data:
        count, validated = len(record.data), sum(case.subset == VALIDATION_SUBSET for case in record.data)
        data = [f"{count} cases: {count - validated} trained on, {validated} validated with", "centres: not recorded"]
    return f"""\
---
license: {licence}{to_fill}
library_name: zssmnet
tags: [prostate, mri, bpmri, self-supervised, pre-training, medical-imaging, mnet]
---
# {config.name}

MNet, pre-trained on bi-parametric prostate MRI (T2W, ADC, high b-value DWI and zonal masks) to restore corrupted cubes,
as Z-SSMNet (arXiv 2212.05808) describes it. For fine-tuning on the detection of clinically significant prostate cancer;
no medical device, and no detector as it is.

## Training data

{_listed(data)}

## Network and settings

{_listed(settings)}

## Validation

{_listed(validation)}
{_probe(config.probe_path, weights, config.force) if config.probe_path is not None else ""}
## How to load it

```python
import zssmnet

model = zssmnet.load_pretrained("path/to/this/folder", num_classes=2)
```

The input has the axes (N, C, Z, Y, X) and the channels {", ".join(CHANNEL_NAMES)}; \
`zssmnet.network_input` makes it from files.
Intensities and spacing are in `{PACKAGE_CONFIG}`.

## Please cite

{_listed(CITATIONS.values())}
"""


def _listed(points: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(point.split())}" for point in points)


def _settings(record: PretrainedModel) -> list[str]:
    training, corruption = record.parameters.training, record.parameters.corruption
    return [
        f"corruption: `{corruption.recipe}`; seed {training.seed}",
        f"optimizer `{training.optimizer}`, momentum {training.momentum:g}, learning rate "
        f"{training.learning_rate:g}, schedule `{training.schedule}`, batches of {training.batch_size} cubes",
        f"epochs: {len(record.history)}, of which the best is number {record.best_epoch}",
        f"device `{record.device or 'not recorded'}`, precision `{record.precision}`, run `{record.run_id}`",
        f"versions: {', '.join(f'{name} {number}' for name, number in sorted(record.versions.items()))}",
    ]


def _validation(record: PretrainedModel) -> list[str]:
    lines = [f"validation loss (mean squared error of the restored images): {record.best_validation_loss:.5f}"]
    if (explained := record.metrics.get("explained_variance")) is not None:
        meaning = "100 % is perfect, 0 % what the best constant for each channel has"
        lines.append(f"explained variance of the restored images: {100 * explained:.1f} % ({meaning})")
    if by_channel := record.best.explained_by_channel:
        each = (f"{name} {100 * share:.1f} %" for name, share in zip(CHANNELS, by_channel, strict=True))
        lines.append(f"of each alone: {', '.join(each)}")
    return lines


def _probe(address: str, weights: Weights, force: bool) -> str:
    """The section on the probe: its single values, and the sentence of each verdict; neither names a case."""
    text = read_file(address)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{address}: is no JSON file; name the probe's JSON file") from error
    if not (isinstance(content, dict) and "verdict" in content and isinstance(content.get("verdicts", []), list)):
        found = "no verdict" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{address}: holds {found}, not the probe's figures by name; name its probe.json")
    if b'"sha256"' in text and sha256_of(weights.path).encode() not in text and not force:
        raise InputError(
            f"{address}: is the probe of other weights than {weights.address}; name theirs, or give --force if they "
            "are the same in another file"
        )
    points = [f"{name}: {value}" for name, value in content.items() if isinstance(value, str | int | float)]
    verdicts = content.get("verdicts", [])
    points += [str(one["sentence"]) for one in verdicts if isinstance(one, dict) and "sentence" in one]
    return f"\n## Does it help? The probe's result\n\n{_listed(points)}\n"
