"""From cubes to published weights, with their record.

A run works in ``training/<run id>/`` of the weights' folder, where it keeps its best model and its last checkpoint.
When it has finished, its best model is published as ``ssl_mnet_zonal.model`` in one step.
The run id is made from the cubes and the configuration, so that the same work is continued and other work is not.
"""

import hashlib
import json
import logging
import platform
import shutil

import torch

from zssmnet.config import PretrainConfig, TrainingConfig
from zssmnet.cubes import SubsetCubes, find_cubes
from zssmnet.records import (
    Input,
    Output,
    Record,
    fingerprints,
    outputs_there,
    publish_record,
    read_record,
    remove_record,
)
from zssmnet.splits import SUBSETS
from zssmnet.storage import Storage, sha256_of
from zssmnet.training.checkpoint import BEST, EpochResult, Progress, TrainingState
from zssmnet.training.data import CubeSet, open_training_data
from zssmnet.training.epoch import OnStep
from zssmnet.training.fit import OnEpoch, fit, is_finished
from zssmnet.training.monitor import Monitor

log = logging.getLogger(__name__)

METHOD = 1
"""Raised whenever the same cubes and configuration would give other weights."""
MODEL = "ssl_mnet_zonal.model"
_NOT_DECISIVE = {"epochs", "patience", "device"}
"""Parts of the recipe that decide when and where training ends, not what an epoch does."""


class PretrainedModel(Record):
    """The record of published weights."""

    run_id: str
    parameters: PretrainConfig
    versions: dict[str, str]
    best_epoch: int
    best_validation_loss: float
    history: tuple[EpochResult, ...]

    def is_finished(self, recipe: TrainingConfig) -> bool:
        """Whether this recipe asks for nothing more than what was done."""
        return is_finished(Progress(list(self.history), self.best_epoch, self.best_validation_loss), recipe)


def pretrain(
    cubes: Storage,
    weights: Storage,
    config: PretrainConfig,
    on_epoch: OnEpoch = lambda state: None,
    on_step: OnStep = lambda done, steps: None,
) -> tuple[PretrainedModel, bool]:
    """Pre-train on the cubes in a folder and publish the best model, unless that was done already.

    Returns:
        The model's record, and whether any work was done.

    Raises:
        CubesError: cubes that cannot be used.
        TrainingError: training that cannot go on.
        CheckpointError: a checkpoint that cannot be used.
    """
    known = read_record(weights, MODEL, PretrainedModel)
    inputs = _fingerprints(cubes, known.inputs if known else ())
    run_id = identify(inputs, config)
    if (
        known
        and known.run_id == run_id
        and known.is_finished(config.training)
        and outputs_there(weights, known.outputs)
    ):
        return known, False
    training, validation = open_training_data(cubes, config.training.batch_size)
    _log_start(training, validation, config, run_id)
    workplace = weights.child(f"training/{run_id}")
    workplace.sweep()
    with Monitor(workplace, validation, config) as monitor:

        def watch(state: TrainingState) -> None:
            monitor.on_epoch(state)
            on_epoch(state)

        progress = fit(training, validation, config, workplace, watch, on_step).progress
    record = _publish(workplace, weights, run_id, inputs, config, progress)
    log.info("published %s: epoch %d, validation loss %.5f", MODEL, progress.best_epoch, progress.best_loss)
    return record, True


def identify(inputs: tuple[Input, ...], config: PretrainConfig) -> str:
    """The id of the run with these cubes and this configuration: 12 hex digits."""
    settings = config.model_dump(mode="json")
    for name in _NOT_DECISIVE:
        del settings["training"][name]
    decisive = json.dumps([METHOD, [one.sha256 for one in inputs], settings], sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()[:12]


def _fingerprints(cubes: Storage, earlier: tuple[Input, ...]) -> tuple[Input, ...]:
    """Fingerprints of the six files of cubes; files that have a record or an earlier one are not read again."""
    by_subset = find_cubes(cubes)
    keys = [by_subset[subset] for subset in SUBSETS]
    known = list(earlier)
    for key in keys:
        record, entry = read_record(cubes, key, SubsetCubes), cubes.stat(key)
        if record and entry and outputs_there(cubes, record.outputs):
            sha256 = record.outputs[0].sha256
            known.append(Input(name=key, size=entry.size, version=entry.version, sha256=sha256))
    return fingerprints([(cubes, key) for key in keys], known)


def _log_start(training: CubeSet, validation: CubeSet, config: PretrainConfig, run_id: str) -> None:
    log.info(
        "pre-training %s: %d training and %d validation cubes, %d steps of %d an epoch, recipe %r",
        run_id,
        len(training),
        len(validation),
        len(training) // config.training.batch_size,
        config.training.batch_size,
        config.corruption.recipe,
    )


def _publish(
    workplace: Storage,
    weights: Storage,
    run_id: str,
    inputs: tuple[Input, ...],
    config: PretrainConfig,
    progress: Progress,
) -> PretrainedModel:
    remove_record(weights, MODEL)  # it tells of the model that is replaced now
    with weights.publishing(MODEL) as path:
        shutil.copyfile(workplace.local(BEST), path)
        produced = Output(key=MODEL, size=path.stat().st_size, sha256=sha256_of(path))
    record = PretrainedModel(
        method=METHOD,
        inputs=inputs,
        outputs=(produced,),
        run_id=run_id,
        parameters=config,
        versions={"python": platform.python_version(), "torch": torch.__version__},
        best_epoch=progress.best_epoch,
        best_validation_loss=progress.best_loss,
        history=tuple(progress.history),
    )
    publish_record(weights, MODEL, record)
    return record
