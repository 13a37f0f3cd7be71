"""A folder to publish weights in: safetensors, config.json, a model card, and nnssl's adaptation plan."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zssmnet.config import CubesConfig, PackageConfig, PreparationConfig
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.errors import InputError
from zssmnet.handoff.network_input import INPUT_CHANNELS
from zssmnet.handoff.weights import (
    PACKAGE_CONFIG,
    PACKAGE_WEIGHTS,
    Weights,
    check_finite,
    read_weights,
    record_of,
)
from zssmnet.preparation.cropping import Triple
from zssmnet.preparation.cubes import HIGHEST_ADC, Spacing, size_of_cubes
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import LocalStorage
from zssmnet.storage.local import local_path

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


@dataclass(frozen=True)
class _Content:
    """What a package is made from."""

    weights: Weights
    record: PretrainedModel | None
    config: PackageConfig
    probe: Mapping[str, Any] | None

    @property
    def spacing_mm(self) -> Spacing:
        """x, y, z of the cubes, as recorded; else the published method's."""
        return (self.record and self.record.spacing_mm) or PreparationConfig().spacing_mm

    @property
    def patch(self) -> Triple:
        """Size x, y, z of the cubes in voxels, as recorded; else the published method's."""
        return (self.record and size_of_cubes(self.record.inputs[0].name)) or CubesConfig().size


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
        folder: a local folder; files of the package that are there already are replaced.
        config: the name and the licence on the card, and the probe's result. Without a licence there is a field to
            be filled in.

    Raises:
        CheckpointError: `model_path` is not usable.
        InputError: the probe's file is no JSON object.
        StorageError: the folder cannot be written.
    """
    from safetensors.torch import save

    weights = read_weights(model_path)
    check_finite(weights.path, weights.tensors)
    content = _Content(weights, record_of(weights.path), config, _read_probe(config.probe_path))
    output = LocalStorage(local_path(folder))
    output.sweep()
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    output.publish_bytes(PACKAGE_WEIGHTS, save(tensors, metadata={"format": "pt"}))
    for key, value in ((PACKAGE_CONFIG, _config(content)), (ADAPTATION_PLAN, _adaptation_plan(content))):
        output.publish_bytes(key, json.dumps(value, indent=1).encode() + b"\n")
    output.publish_bytes(CARD, _card(content).encode())
    log.info("%s: %d tensors of %s", output.folder, len(tensors), weights.path)
    return output.folder


def _config(content: _Content) -> dict[str, Any]:
    """What is needed to build the network and its input."""
    weights, record = content.weights, content.record
    return {
        "architecture": "MNet",
        "in_channels": weights.in_channels,
        "channels": list(weights.channels),
        "merge": weights.merge,
        "input_channels": list(INPUT_CHANNELS),
        "input_axes": "N, C, Z, Y, X",
        "intensities": {"T2W": "0..1 by minimum and maximum", "ADC": f"clipped to 0..{HIGHEST_ADC:g}, divided by it"}
        | {"DWI": "0..1 by minimum and maximum", "zones": "one-hot"},
        "spacing_mm_xyz": list(content.spacing_mm),
        "patch_size_zyx": list(content.patch)[::-1],
        "library": "zssmnet",
        "library_version": version("zssmnet"),
        "run_id": record.run_id if record else None,
        "license": content.config.licence,
        "citations": CITATIONS,
    }


def _adaptation_plan(content: _Content) -> dict[str, Any]:
    """The fields that nnssl's adaptation plan has, for the network that it does not know."""
    weights = content.weights
    return {
        "architecture_plans": {
            "arch_class_name": "zssmnet.MNet",
            "arch_kwargs": {"channels": list(weights.channels), "merge": weights.merge},
            "arch_kwargs_requiring_import": None,
        },
        "pretrain_plan": {
            "spacing_zyx": list(content.spacing_mm)[::-1],
            "patch_size": list(content.patch)[::-1],
            "normalization": "none: see intensities in config.json",
        },
        "pretrain_num_input_channels": weights.in_channels,
        "recommended_downstream_patchsize": list(content.patch)[::-1],
        "key_to_encoder": "down",
        "key_to_stem": "down11",
        "keys_to_in_proj": ["down11.CB2d.conv1.conv", "down11.CB3d.conv1.conv"],
        "key_to_lpe": None,
        "citations": CITATIONS,
    }


def _card(content: _Content) -> str:
    """The model card, in the form of the field's model hubs: Markdown after a YAML header."""
    weights, record, config = content.weights, content.record, content.config
    to_fill = "  # to be filled in: the licence of these weights" if config.licence == PackageConfig().licence else ""
    lines = [
        _HEADER.format(licence=config.licence + to_fill, name=config.name),
        "## Training data\n",
        *_data_lines(record),
        "\n## Network and settings\n",
        f"- MNet with the channels {', '.join(map(str, weights.channels))}, merging unit `{weights.merge}`, "
        f"{weights.in_channels} input channels",
        *_settings_lines(content),
        "\n## Validation\n",
        *_validation_lines(record),
        *([] if content.probe is None else ["\n## Does it help? The probe's result\n", *_probe_lines(content.probe)]),
        _HOW_TO_LOAD.format(channels=", ".join(INPUT_CHANNELS), config=PACKAGE_CONFIG),
        *(f"- {citation}" for citation in CITATIONS.values()),
    ]
    return "\n".join(lines) + "\n"


def _data_lines(record: PretrainedModel | None) -> list[str]:
    if record is None or not record.data:
        return ["- no record of the cases lies beside the weights"]
    validation = sum(case.subset == VALIDATION_SUBSET for case in record.data)
    return [
        f"- {len(record.data)} cases: {len(record.data) - validation} trained on, {validation} validated with",
        "- centres: not recorded",
    ]


def _settings_lines(content: _Content) -> list[str]:
    record = content.record
    voxels, mm = (" x ".join(f"{one:g}" for one in of) for of in (content.patch, content.spacing_mm))
    size = f"cubes of {voxels} voxels of {mm} mm (x, y, z)"
    if record is None:
        return [f"- {size}, as published; no record of the settings lies beside the weights"]
    training, corruption = record.parameters.training, record.parameters.corruption
    assumed = "" if record.spacing_mm else "; the spacing is the published one, as it was not recorded"
    return [
        f"- {size}{assumed}",
        f"- corruption: `{corruption.recipe}`; seed {training.seed}",
        f"- optimizer `{training.optimizer}`, momentum {training.momentum:g}, learning rate "
        f"{training.learning_rate:g}, schedule `{training.schedule}`, batches of {training.batch_size} cubes",
        f"- epochs: {len(record.history)}, of which the best is number {record.best_epoch}",
        f"- device `{record.device or 'not recorded'}`, precision `{record.precision}`, run `{record.run_id}`",
        f"- versions: {', '.join(f'{name} {number}' for name, number in sorted(record.versions.items()))}",
    ]


def _validation_lines(record: PretrainedModel | None) -> list[str]:
    if record is None:
        return ["- no record lies beside the weights"]
    lines = [f"- validation loss (mean squared error of the restored images): {record.best_validation_loss:.5f}"]
    if (explained := record.metrics.get("explained_variance")) is not None:
        lines.append(
            f"- explained variance of the restored images: {100 * explained:.1f} % (100 % is perfect, 0 % what the "
            "best constant for each channel has)"
        )
    return lines


def _probe_lines(probe: Mapping[str, Any]) -> list[str]:
    """The probe's single values, and the sentence of each verdict; neither names a case."""
    verdicts = probe.get("verdicts", ())
    return [
        *(f"- {name}: {value}" for name, value in probe.items() if isinstance(value, str | int | float)),
        *(f"- {one['sentence']}" for one in verdicts if isinstance(one, dict) and "sentence" in one),
    ]


def _read_probe(path: str | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    file = local_path(path)
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error}); name the probe's JSON file") from error
    except ValueError as error:
        raise InputError(f"{file}: is no JSON file; name the probe's JSON file") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}, not the probe's figures by name")
    return content
