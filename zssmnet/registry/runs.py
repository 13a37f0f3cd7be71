"""One training run: what goes into it, its id, its workplace, and its record.

A run works in ``training/<run id>/`` of the weights' folder, where it keeps its best model and its last checkpoint.
The run id is made from what decides the weights, so that the same work is continued and other work is not.
"""

import hashlib
import json
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from zssmnet.config import PretrainConfig
from zssmnet.data.archive import CHANNELS, shortened
from zssmnet.data.splits import SUBSETS, VALIDATION_SUBSET
from zssmnet.errors import CubesError, NonFiniteLossError
from zssmnet.preparation.cubes import Spacing, SubsetCubes, find_cubes
from zssmnet.registry.lineage import CaseData, data_of_cubes
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import Storage
from zssmnet.storage.lock import locked
from zssmnet.storage.records import Input, fingerprints, read_record, up_to_date
from zssmnet.training.acceleration import choose_device, choose_precision
from zssmnet.training.checkpoint import Progress, TrainingState, check_best
from zssmnet.training.dataset import CubeSet, open_training_data
from zssmnet.training.epoch import OnStep
from zssmnet.training.fit import OnEpoch, fit
from zssmnet.training.processes import Job, process_group
from zssmnet.training.tensorboard import Monitor

log = logging.getLogger(__name__)

METHOD = 1
"""Raised whenever the same cubes and configuration would give other weights."""
_NOT_DECISIVE = {"epochs", "patience", "device", "processes", "compile", "cubes_in"}
"""Parts of the recipe that decide when training ends, and where and how fast it runs, not what an epoch does."""

_ADDED = {
    "precision": "auto",  # it leaves it to the device, which does not decide either
    "optimizer": "sgd",
    "weight_decay": 0.0,
    "schedule": "halving",
    "warm_up_epochs": 0,
    "calibrated_head": False,
}
"""Settings that earlier versions did not have, and the values that they stood for: their runs are continued."""


@dataclass(frozen=True)
class Supply:
    """What a folder of cubes holds: fingerprints of its six files, the recorded cases behind them, their spacing."""

    inputs: tuple[Input, ...]
    data: tuple[CaseData, ...]
    spacing_mm: Spacing | None


def take_stock(cubes: Storage, earlier: Sequence[Input] = ()) -> Supply:
    """Fingerprint the files of cubes; those with a record, or an earlier fingerprint, of their version are not read.

    Where a file of cubes is not the one of its record, nothing is known about the cases behind it.

    Raises:
        CubesError: there are no cubes, or not of all subsets, or a case is both trained on and validated with.
    """
    by_subset = find_cubes(cubes)
    keys = [by_subset[subset] for subset in SUBSETS]
    known, data, spacing = list(earlier), list[CaseData](), None
    for key in keys:
        record = read_record(cubes, key, SubsetCubes)
        if present := up_to_date(cubes, record):
            (output,) = present.outputs
            known.append(Input(name=key, size=output.size, version=output.version, sha256=output.sha256))
            data.extend(data_of_cubes(present))
            spacing = spacing or present.spacing_mm
        elif record:
            log.warning(
                "%s: is not the file of its record; 'zssmnet cubes' cuts the cubes of the prepared cases anew",
                cubes.where(key),
            )
    _check_sides(cubes, data)
    return Supply(fingerprints([(cubes, key) for key in keys], known), tuple(data), spacing)


def identify(inputs: Sequence[Input], config: PretrainConfig) -> str:
    """The id of the run with these inputs and this configuration: 12 hex digits."""
    content = json.dumps([METHOD, [one.sha256 for one in inputs], decisive(config)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def decisive(config: PretrainConfig) -> dict[str, Any]:
    """The settings that decide what an epoch does."""
    settings = config.model_dump(mode="json")
    recipe = settings["training"]
    undecisive = _NOT_DECISIVE - ({"epochs"} if config.training.schedule == "cosine" else set())
    undecisive |= {name for name, default in _ADDED.items() if recipe[name] == default}
    if config.corruption.recipe != "masked":
        del settings["corruption"]["masking"]
    settings["training"] = {name: value for name, value in recipe.items() if name not in undecisive}
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
    """Train in a run's workplace, from its last checkpoint on, see `fit`; LockedError if another run does."""
    training, validation = open_training_data(cubes, config.training.batch_size)
    _log_start(training, validation, config, workplace)
    with (
        locked(workplace) as lock,
        Monitor(workplace, validation, config) as monitor,
        process_group(Job(cubes=cubes.uri, config=config)) as group,
    ):
        workplace.sweep()

        def watch(state: TrainingState) -> None:
            lock.check()  # else two runs would replace each other's checkpoints
            monitor.on_epoch(state)
            on_epoch(state)

        try:
            progress = fit(training, validation, config, workplace, watch, on_step, initial, group).progress
        except NonFiniteLossError as error:
            if found := training.first_not_finite() or validation.first_not_finite():
                raise NonFiniteLossError(f"{error}; {found}; generate the cubes anew") from error
            raise
    check_best(workplace, progress)
    return progress


def describe(
    run_id: str, inputs: tuple[Input, ...], supply: Supply, config: PretrainConfig, progress: Progress
) -> PretrainedModel:
    """The record of a run's best model, to be published with it."""
    device = choose_device(config.training.device)
    return PretrainedModel(
        method=METHOD,
        inputs=inputs,
        outputs=(),
        run_id=run_id,
        parameters=config,
        versions=_versions(),
        device=device.type,
        precision=choose_precision(config.training, device),
        best_epoch=progress.best_epoch,
        best_validation_loss=progress.best_loss,
        metrics=_metrics(progress),
        history=tuple(progress.history),
        data=supply.data,
        spacing_mm=supply.spacing_mm,
    )


def _metrics(progress: Progress) -> dict[str, float]:
    """How good the best model is."""
    best = progress.history[progress.best_epoch - 1]
    metrics = {"validation_loss": best.validation_loss, "training_loss": best.train_loss}
    if best.explained is not None:
        metrics["explained_variance"] = best.explained
    return metrics | {f"spread_{channel}": spread for channel, spread in zip(CHANNELS, best.spread or (), strict=False)}


def _versions() -> dict[str, str]:
    """Of what decides the numbers."""
    packages = {name: metadata.version(name) for name in ("zssmnet", "numpy", "SimpleITK")}
    return {"python": platform.python_version(), "torch": str(torch.__version__)} | packages


def _check_sides(cubes: Storage, data: Sequence[CaseData]) -> None:
    """No case is both trained on and validated with: the validation loss would measure memory."""
    validated = [one for one in data if one.subset == VALIDATION_SUBSET]
    trained = [one for one in data if one.subset != VALIDATION_SUBSET]
    if both := sorted({one.case_id for one in trained} & {one.case_id for one in validated}):
        raise CubesError(
            f"{cubes.uri}: {len(both)} cases are both trained on and validated with: {shortened(both)}; "
            "generate the cubes of all six subsets anew"
        )
    known = {one.sha256: one.case_id for one in trained}
    if alike := [f"{one.case_id} is {known[one.sha256]}" for one in validated if one.sha256 in known]:
        log.warning(
            "%s: %d validation cases have the images of training cases (%s): the validation loss is too good; "
            "remove one of each from the archive",
            cubes.uri,
            len(alike),
            shortened(alike),
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
