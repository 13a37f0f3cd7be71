"""One training run: what goes into it, its name, its workplace, and what it can tell of itself.

A run works in ``training/<run id>/`` of the weights' folder, where it keeps its best model and its last checkpoint.
The run id is made from what decides the weights, so that the same work is continued and other work is not.
"""

import hashlib
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zssmnet.case_data import CaseData, data_of_cubes
from zssmnet.config import PretrainConfig
from zssmnet.cubes import SubsetCubes, find_cubes
from zssmnet.errors import NonFiniteLossError
from zssmnet.records import Input, fingerprints, outputs_there, read_record
from zssmnet.splits import SUBSETS
from zssmnet.storage import Storage
from zssmnet.training.checkpoint import Progress, TrainingState
from zssmnet.training.data import CubeSet, open_training_data
from zssmnet.training.epoch import OnStep
from zssmnet.training.fit import OnEpoch, fit
from zssmnet.training.monitor import Monitor
from zssmnet.training.versions import PretrainedModel

log = logging.getLogger(__name__)

METHOD = 1
"""Raised whenever the same cubes and configuration would give other weights."""
_NOT_DECISIVE = {"epochs", "patience", "device"}
"""Parts of the recipe that decide when and where training ends, not what an epoch does."""


@dataclass(frozen=True)
class Supply:
    """What a folder of cubes holds: fingerprints of its six files, and the cases behind them as far as records tell."""

    inputs: tuple[Input, ...]
    data: tuple[CaseData, ...]


def take_stock(cubes: Storage, earlier: Sequence[Input] = ()) -> Supply:
    """Look at the files of cubes; those that have a record or an earlier fingerprint are not read again.

    Raises:
        CubesError: there are no cubes, or not of all subsets.
    """
    by_subset = find_cubes(cubes)
    keys = [by_subset[subset] for subset in SUBSETS]
    known, data = list(earlier), list[CaseData]()
    for key in keys:
        record, entry = read_record(cubes, key, SubsetCubes), cubes.stat(key)
        if record and entry and outputs_there(cubes, record.outputs):
            sha256 = record.outputs[0].sha256
            known.append(Input(name=key, size=entry.size, version=entry.version, sha256=sha256))
            data.extend(data_of_cubes(record))
    return Supply(fingerprints([(cubes, key) for key in keys], known), tuple(data))


def identify(inputs: Sequence[Input], config: PretrainConfig) -> str:
    """The id of the run with these inputs and this configuration: 12 hex digits."""
    told = json.dumps([METHOD, [one.sha256 for one in inputs], decisive(config)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def decisive(config: PretrainConfig) -> dict[str, Any]:
    """The settings that decide what an epoch does."""
    settings = config.model_dump(mode="json")
    for name in _NOT_DECISIVE:
        del settings["training"][name]
    return settings


def workplace_of(weights: Storage, run_id: str) -> Storage:
    """Where a run keeps its last checkpoint, its best model and its logs."""
    return weights.child(f"training/{run_id}")


def train(
    cubes: Storage,
    workplace: Storage,
    config: PretrainConfig,
    on_epoch: OnEpoch,
    on_step: OnStep,
    initial: Path | None = None,
) -> Progress:
    """Train in a run's workplace, from its last checkpoint if there is one; see `fit`.

    Raises:
        CubesError: cubes that cannot be used.
        TrainingError: training that cannot go on.
        CheckpointError: a checkpoint that cannot be used.
    """
    training, validation = open_training_data(cubes, config.training.batch_size)
    _log_start(training, validation, config, workplace)
    workplace.sweep()
    with Monitor(workplace, validation, config) as monitor:

        def watch(state: TrainingState) -> None:
            monitor.on_epoch(state)
            on_epoch(state)

        try:
            return fit(training, validation, config, workplace, watch, on_step, initial).progress
        except NonFiniteLossError as error:
            if found := training.first_not_finite() or validation.first_not_finite():
                raise NonFiniteLossError(f"{error}; {found}; generate the cubes anew") from error
            raise


def describe(
    run_id: str, inputs: tuple[Input, ...], data: tuple[CaseData, ...], config: PretrainConfig, progress: Progress
) -> PretrainedModel:
    """The record of a run's best model, to be published with it."""
    return PretrainedModel(
        method=METHOD,
        inputs=inputs,
        outputs=(),
        run_id=run_id,
        parameters=config,
        versions={"python": platform.python_version(), "torch": torch.__version__},
        best_epoch=progress.best_epoch,
        best_validation_loss=progress.best_loss,
        history=tuple(progress.history),
        data=data,
    )


def _log_start(training: CubeSet, validation: CubeSet, config: PretrainConfig, workplace: Storage) -> None:
    log.info(
        "pre-training %s: %d training and %d validation cubes, %d steps of %d an epoch, recipe %r",
        workplace.uri.rpartition("/")[2],
        len(training),
        len(validation),
        len(training) // config.training.batch_size,
        config.training.batch_size,
        config.corruption.recipe,
    )
