"""The pictures of a run, published under its reports, each set with a record of what it shows.

A set's input is the record of the cubes or of the model that it shows, since that describes everything in a picture.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

from torch import nn
from typing_extensions import override

from zssmnet.config import CubesConfig, PretrainConfig
from zssmnet.data.image_io import array_of, read_image
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.preparation.cubes import SubsetCubes, cubes_key, open_cubes
from zssmnet.preparation.prepare import prepared_keys
from zssmnet.registry.versions import MODEL, PretrainedModel, stable_model
from zssmnet.report.case import case_montage
from zssmnet.report.training import loss_curves, restoration_triptych
from zssmnet.storage import Storage
from zssmnet.storage.records import (
    Input,
    Record,
    publish_recorded,
    read_record,
    refresh_record,
    same_content,
    up_to_date,
)
from zssmnet.training.checkpoint import EpochResult, load_weights
from zssmnet.training.dataset import CubeSet
from zssmnet.training.loss import restoring_network
from zssmnet.training.tensorboard import validation_examples

METHOD = 1
LOSS_CURVES = "loss_curves.png"
RESTORED_CUBES = "restored_cubes.png"
EXAMPLES = 4
_PICTURE = re.compile(r"[a-z0-9_/]+\.png")


class PictureSet(Record):
    """The record of a set of pictures."""

    @override
    def is_valid_for(self, name: str) -> bool:
        return all(_PICTURE.fullmatch(output.key) for output in self.outputs)


@dataclass(frozen=True)
class Picture:
    """A picture not yet published: its key and its PNG."""

    key: str
    png: bytes


def publish_case_pictures(
    data: Storage, cubes: Storage, reports: Storage, subsets: Sequence[int], config: CubesConfig
) -> list[str]:
    """A montage of the first case of each subset, with zones and cube positions; the keys below ``reports``."""
    reports.sweep()
    keys: list[str] = []
    for subset in subsets:
        name = cubes_key(config, subset)
        record = read_record(cubes, name, SubsetCubes)
        shown = [record] if record and record.cases else []
        inputs = tuple(_as_input(name, record) for record in shown)
        pictures = (Picture(f"cases/subset{subset}.png", _montage(data, record)) for record in shown)
        keys += _publish(reports, f"cases/subset{subset}", inputs, pictures)
    return keys


def publish_training_pictures(cubes: Storage, weights: Storage, reports: Storage) -> list[str]:
    """The loss curves of the published model, and validation cubes corrupted, restored and as they should be.

    Returns the keys below ``reports``; none if no model with a record is published, or the validation cubes are gone.
    """
    reports.sweep()
    record = stable_model(weights)
    if record is None or cubes.stat(record.inputs[VALIDATION_SUBSET].name) is None:
        return []
    return _publish(reports, "training", (_as_input(MODEL, record),), _training_pictures(cubes, weights, record))


def draw_losses(history: Sequence[EpochResult], best_epoch: int, title: str) -> Picture:
    """The curves of training and validation loss."""
    losses = [(one.epoch, one.train_loss, one.validation_loss, one.learning_rate) for one in history]
    return Picture(LOSS_CURVES, loss_curves(losses, best_epoch, title))


def draw_restored(model: nn.Module, validation: CubeSet, config: PretrainConfig, title: str) -> Picture:
    """Some validation cubes corrupted, restored by a network, and as they should be."""
    examples = validation_examples(model, validation, config, EXAMPLES)
    png = restoration_triptych(examples.corrupted.numpy(), examples.restored.numpy(), examples.target.numpy(), title)
    return Picture(RESTORED_CUBES, png)


def draw_restored_by(model: Path, validation: CubeSet, config: PretrainConfig, title: str) -> Picture:
    """The same with a file of weights."""
    network = restoring_network(config.network, config.corruption.zone_task.share > 0)
    load_weights(network, model)
    return draw_restored(network, validation, config, title)


def _training_pictures(cubes: Storage, weights: Storage, record: PretrainedModel) -> Iterator[Picture]:
    yield draw_losses(record.history, record.best_epoch, f"Pre-training {record.run_id}")
    loss = f"Best epoch {record.best_epoch}, validation loss {record.best_validation_loss:.4f}"
    title = ", ".join(filter(None, (loss, record.best.quality)))
    validation = CubeSet([open_cubes(cubes.local(record.inputs[VALIDATION_SUBSET].name))])
    yield draw_restored_by(weights.local(MODEL), validation, record.parameters, title)


def _montage(data: Storage, record: SubsetCubes) -> bytes:
    case = record.cases[0]
    volumes = [read_image(data.local(key)) for key in prepared_keys(case.case_id, record.subset)]
    arrays = [array_of(volume) for volume in volumes]
    use = "validation" if record.subset == VALIDATION_SUBSET else "training"
    title = f"Case {case.case_id}, subset {record.subset} ({use})"
    size, spacing = record.parameters.size, volumes[0].GetSpacing()
    return case_montage(arrays[:3], arrays[3], case.starts, size, spacing, title)


def _publish(reports: Storage, name: str, inputs: tuple[Input, ...], pictures: Iterable[Picture]) -> list[str]:
    """Publish a set of pictures, unless those there show the same; pictures of the set that are no more are removed."""
    known = read_record(reports, name, PictureSet)
    is_same = known is not None and known.method == METHOD and same_content(known.inputs, inputs)
    if is_same and (present := up_to_date(reports, known)):
        refresh_record(reports, name, present)
        return [output.key for output in present.outputs]
    drawn = {picture.key: methodcaller("write_bytes", picture.png) for picture in pictures}
    earlier = (output.key for output in (known.outputs if known else ()))
    # force: a training of many hours does not fail for a picture that has lost its record
    publish_recorded(reports, name, PictureSet(method=METHOD, inputs=inputs, outputs=()), drawn, earlier, force=True)
    return list(drawn)


def _as_input(name: str, record: Record) -> Input:
    return Input(name=name, size=0, version="", sha256=record.identity())
