"""Published models: every version in a folder of its own, and one of them under the stable name.

A version lies in ``versions/<run id>/`` of the weights' folder, a stage of its own with its record. The stable name
``ssl_mnet_zonal.model`` is a copy of one version and of its record. Rolling back is promoting an earlier version.

A run that is killed between the stable model and its record leaves a record that counts as not done. The stable model
is then known by its SHA-256, which one of the versions has.
"""

import logging
import shutil
from functools import partial
from pathlib import Path

from pydantic import Field
from typing_extensions import override

from zssmnet.config import IntensityScaling, PretrainConfig, TrainingConfig
from zssmnet.data.archive import shortened
from zssmnet.data.splits import SUBSETS
from zssmnet.errors import CheckpointError
from zssmnet.preparation.cubes import Spacing
from zssmnet.registry.lineage import CaseData
from zssmnet.registry.rollbacks import record_rollback
from zssmnet.storage import Storage, sha256_of
from zssmnet.storage.lock import locked
from zssmnet.storage.records import (
    VERSIONS,
    Name,
    Output,
    Record,
    RecordT,
    outputs_there,
    publish_recorded,
    read_record,
    record_key,
    refresh_record,
    up_to_date,
)
from zssmnet.training.checkpoint import EpochResult, Progress
from zssmnet.training.fit import is_finished

log = logging.getLogger(__name__)

MODEL = "ssl_mnet_zonal.model"
PUBLICATION_S = 600.0
"""How long to wait for another run that is publishing a model: it only copies files."""


class PretrainedModel(Record):
    """The record of published weights.

    Attributes:
        inputs: the six files of cubes; then, if training began with the weights of another version, that version.
        parameters: the configuration; the seeds are in its ``training``.
        versions: of the programs that decide the numbers.
        device: kind of device that it was trained on, ``cpu``, ``cuda`` or ``mps``; empty if it was not recorded.
        precision: of the convolutions there.
        metrics: how good the best epoch is: losses, explained variance and spread (see `Validation`).
        data: the cases behind the cubes; none where the cubes have no records.
        spacing_mm: of the cubes, x, y, z; None if it was not recorded.
        intensity_scaling: of T2W and DWI in the cubes.
        channel_weights: of T2W, ADC and DWI in the loss, measured on the training cubes; None: equal.
        number: 1, 2, 3, ... in the order in which versions were first published; 0 for a model of an earlier program.
            A count and no time, so that the same work gives the same record.
        replaces: run id of the model that was the stable one when this version was first published.
    """

    run_id: Name
    parameters: PretrainConfig
    versions: dict[str, str]
    best_epoch: int
    best_validation_loss: float
    device: str = ""
    precision: str = "float32"
    metrics: dict[str, float] = Field(default_factory=dict)
    history: tuple[EpochResult, ...]
    data: tuple[CaseData, ...] = ()
    spacing_mm: Spacing | None = None
    intensity_scaling: IntensityScaling = "maximum"
    channel_weights: tuple[float, float, float] | None = None
    number: int = 0
    replaces: Name | None = None

    @override
    def is_valid_for(self, name: str) -> bool:
        is_whole = len(self.inputs) >= len(SUBSETS) and len(self.history) >= self.best_epoch >= 1
        return is_whole and [output.key for output in self.outputs] == [name] == [MODEL]

    @property
    def best(self) -> EpochResult:
        """The results of the epoch whose weights are published."""
        return self.history[self.best_epoch - 1]

    def is_finished(self, recipe: TrainingConfig) -> bool:
        """Whether this recipe asks for nothing more than what was done."""
        return is_finished(Progress(list(self.history), self.best_epoch, self.best_validation_loss), recipe)


def version_key(run_id: str) -> str:
    """Key of a version's model."""
    return f"{VERSIONS}/{run_id}/{MODEL}"


def version_folder(weights: Storage, run_id: str) -> Storage:
    """The folder of a version: its model and its records."""
    return weights.child(f"{VERSIONS}/{run_id}")


def list_versions(weights: Storage) -> list[PretrainedModel]:
    """All whole versions, from the first published to the last; one that was published again keeps its place."""
    found = (one for one in _records(weights) if outputs_there(version_folder(weights, one.run_id), one.outputs))
    return sorted(found, key=_order)


def find_version(weights: Storage, run_id: str) -> PretrainedModel | None:
    """The version of a run; None if there is none, or if its publication was not finished.

    Its file may have been damaged since: `checked_model` and `promote` look at its content.
    """
    folder = version_folder(weights, run_id)
    record = read_record(folder, MODEL, PretrainedModel)
    return record if record and outputs_there(folder, record.outputs) else None


def stable_model(weights: Storage) -> PretrainedModel | None:
    """The record of the model under the stable name; None if there is no model, or one without a record.

    Where a run was killed before it published that record, it is the record of the version with the same content.
    """
    entry = weights.stat(MODEL)
    if entry is None:
        return None
    recorded = read_record(weights, MODEL, PretrainedModel)
    if present := up_to_date(weights, recorded):
        return present
    same_size = [one for one in list_versions(weights) if one.outputs[0].size == entry.size]
    sha256 = sha256_of(weights.local(MODEL)) if same_size else ""
    alike = [one for one in same_size if one.outputs[0].sha256 == sha256]
    to_come = recorded.run_id if recorded else None
    return max(alike, key=lambda one: (one.run_id == to_come, _order(one)), default=None)


def keep_stable(weights: Storage) -> PretrainedModel | None:
    """Keep the stable model among the versions; one that an earlier program published may not be there.

    Returns:
        The version that is the stable model; None if there is no model.

    Raises:
        CheckpointError: the model has no record, or another content than the recorded one.
    """
    if weights.stat(MODEL) is None:
        return None
    stable = stable_model(weights)
    if stable is None:
        raise CheckpointError(
            f"{weights.where(MODEL)}: no record of how it was made; move it elsewhere, or roll back to a version"
        )
    if kept := find_version(weights, stable.run_id):
        return kept
    with locked(weights, PUBLICATION_S):
        _put(version_folder(weights, stable.run_id), _checked(weights, stable), stable)
    return stable


def publish(weights: Storage, made: PretrainedModel, model: Path) -> PretrainedModel:
    """Publish a model: as a version, then under the stable name.

    Args:
        made: the model's record but for what publication adds: output, number, and what it replaces.
    """
    with locked(weights, PUBLICATION_S):
        output = Output(key=MODEL, size=model.stat().st_size, sha256=sha256_of(model))
        stable, records = stable_model(weights), _records(weights)
        known = next((one for one in (*records, stable) if one and one.run_id == made.run_id), None)
        number = known.number if known else 1 + max((one.number for one in records), default=0)
        replaces = known.replaces if known else stable.run_id if stable else None
        record = made.model_copy(update={"outputs": (output,), "number": number, "replaces": replaces})
        folder = version_folder(weights, made.run_id)
        if up_to_date(folder, find_version(weights, made.run_id)) != record:
            _put(folder, model, record)
        promote(weights, made.run_id)
        return record


def promote(weights: Storage, run_id: str) -> bool:
    """Make a version the stable model; the one that it replaces is kept among the versions.

    Returns:
        Whether anything was done.

    Raises:
        CheckpointError: there is no such version, or its file is damaged.
    """
    with locked(weights, PUBLICATION_S):
        stable = up_to_date(weights, read_record(weights, MODEL, PretrainedModel))
        if stable and stable.run_id == run_id and find_version(weights, run_id) in (stable, None):
            refresh_record(weights, MODEL, stable)
            keep_stable(weights)
            return False
        version = _named(weights, run_id)
        model = checked_model(weights, version)
        try:
            keep_stable(weights)
        except CheckpointError as error:
            log.warning("%s: it is replaced and cannot be kept", error)
        _put(weights, model, version)
        return True


def roll_back(weights: Storage, run_id: str | None = None, comment: str = "") -> PretrainedModel:
    """Make an earlier version the stable model again; naming a later one rolls forward.

    Args:
        run_id: of the version; None takes the one that the stable model replaced. Where a switch of the stable model
            was interrupted, None completes that switch and does no more: repeated, it does not go back twice.
        comment: why; it is kept with the record of the rollback.

    Returns:
        The record of what is now the stable model.

    Raises:
        CheckpointError: no such version, nothing to roll back to, it is the stable model already, or it is damaged.
    """
    with locked(weights, PUBLICATION_S):
        stable = stable_model(weights)
        run_id = _one_before(weights, stable) if run_id is None else run_id
        version, replaced = _named(weights, run_id), stable.run_id if stable else None
        if replaced != run_id:  # else it is there already, or is being completed
            checked_model(weights, version)
            record_rollback(weights, run_id, replaced, comment)
        if not promote(weights, run_id):
            raise CheckpointError(f"{weights.where(MODEL)}: is version {run_id} already; {_versions_listed(weights)}")
        log.info("version %s is the stable model now, in place of %s", run_id, replaced or "none")
        return version


def checked_model(weights: Storage, version: PretrainedModel) -> Path:
    """A local path of a version's file; CheckpointError if its content is not that of its record."""
    return _checked(version_folder(weights, version.run_id), version)


def _records(weights: Storage) -> list[PretrainedModel]:
    """The records of all versions, also of those whose publication was not finished."""
    found = version_records(weights, MODEL, PretrainedModel)
    return [record for run_id, record in found if record.run_id == run_id]


def version_records(weights: Storage, name: str, kind: type[RecordT]) -> list[tuple[str, RecordT]]:
    """The run ids that folders of versions are called by, and their records ``name``."""
    ending = f"/{record_key(name)}"
    keys = [entry.key for entry in weights.list(VERSIONS) if entry.key.endswith(ending)]
    run_ids = [key.removeprefix(f"{VERSIONS}/").removesuffix(ending) for key in keys]
    found = [(run_id, read_record(version_folder(weights, run_id), name, kind)) for run_id in run_ids]
    return [(run_id, record) for run_id, record in found if record]


def _order(record: PretrainedModel) -> tuple[int, str]:
    return record.number, record.run_id


def _put(stage: Storage, model: Path, record: PretrainedModel) -> None:
    """Publish a model and its record."""
    stage.sweep()
    publish_recorded(stage, MODEL, record, {MODEL: partial(shutil.copyfile, model)}, force=True)


def _checked(stage: Storage, record: PretrainedModel) -> Path:
    model = stage.local(MODEL)
    if sha256_of(model) != record.outputs[0].sha256:
        raise CheckpointError(
            f"{stage.where(MODEL)}: damaged: its content differs from its record; "
            "remove it, or roll back to another version"
        )
    return model


def _one_before(weights: Storage, stable: PretrainedModel | None) -> str:
    """Run id of the version to roll back to when none is named."""
    if stable is None:
        raise CheckpointError(
            f"{weights.where(MODEL)}: no record of what it replaced; name a version: {_versions_listed(weights)}"
        )
    recorded = read_record(weights, MODEL, PretrainedModel)
    if recorded and recorded.run_id == stable.run_id and not outputs_there(weights, recorded.outputs):
        log.warning("completing interrupted switch to version %s", stable.run_id)
        return stable.run_id
    if stable.replaces is None:
        raise CheckpointError(
            f"{weights.where(MODEL)}: version {stable.run_id} replaced no other, so there is nothing to roll back to; "
            f"name a version: {_versions_listed(weights)}"
        )
    return stable.replaces


def _named(weights: Storage, run_id: str) -> PretrainedModel:
    if version := find_version(weights, run_id):
        return version
    raise CheckpointError(f"{weights.uri}: no version {run_id}; {_versions_listed(weights)}")


def _versions_listed(weights: Storage) -> str:
    """What a rollback can name; CheckpointError if that is nothing."""
    if run_ids := [version.run_id for version in list_versions(weights)]:
        return f"there are {shortened(reversed(run_ids), 10)}"
    raise CheckpointError(f"{weights.uri}: no published model there; give the working root of 'zssmnet run'")
