"""One training run: its inputs, its id, its folder, and its record; from cubes to published weights.

A run works in ``training/<run id>/`` of the weights' folder, where it keeps its best model and its last checkpoint.
The run id is made from what decides the weights, so that the same work is continued and other work is not.
"""

import hashlib
import json
import logging
import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from zssmnet.config import PretrainConfig
from zssmnet.data.archive import CHANNELS, shortened
from zssmnet.errors import NonFiniteLossError
from zssmnet.registry.clean import removable
from zssmnet.registry.lineage import TrainingInputs, training_inputs
from zssmnet.registry.versions import MODEL, PretrainedModel, find_version, promote, publish, stable_model
from zssmnet.storage import Storage
from zssmnet.storage.lock import locked
from zssmnet.storage.ownership import check_ours
from zssmnet.storage.records import Input, record_key
from zssmnet.training.checkpoint import BEST, Progress, TrainingState, check_best
from zssmnet.training.dataset import open_training_data
from zssmnet.training.epoch import OnStep
from zssmnet.training.fit import OnEpoch, fit
from zssmnet.training.precision import choose_device, choose_precision
from zssmnet.training.processes import Job, process_group
from zssmnet.training.tensorboard import publish_logs

log = logging.getLogger(__name__)

METHOD = 1
"""Raised whenever the same cubes and configuration would give other weights."""
_NOT_DECISIVE = {
    "preset",
    "epochs",
    "patience",
    "device",
    "processes",
    "compile",
    "cubes_in",
    "accumulate",
    "deterministic",
}
"""Parts of the recipe that decide when training ends, and where and how fast it runs, not what an epoch does."""

_ADDED = {
    "precision": "auto",  # it leaves it to the device, which does not decide either
    "optimizer": "sgd",
    "weight_decay": 0.0,
    "schedule": "halving",
    "warm_up_epochs": 0,
    "calibrated_head": False,
    "loss_weighting": "equal",
}
"""Settings that earlier versions did not have, and the values that they stood for: their runs are continued."""


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
    if not config.corruption.zone_task.share:
        del settings["corruption"]["zone_task"]
    settings["training"] = {name: value for name, value in recipe.items() if name not in undecisive}
    return settings


def run_folder(weights: Storage, run_id: str) -> Storage:
    """Folder of a run's last checkpoint, best model and logs."""
    return weights.child(f"training/{run_id}")


class Run:
    """One training run on a folder of cubes.

    Attributes:
        files: fingerprints of all that it reads: six files of cubes, then the version that it starts from, if it does.
    """

    def __init__(
        self, cubes: Storage, weights: Storage, config: PretrainConfig, inputs: TrainingInputs, *start: Input
    ) -> None:
        self.cubes, self.weights, self.config, self._inputs = cubes, weights, config, inputs
        self.files = (*inputs.files, *start)
        self.run_id = identify(self.files, config)
        self.folder = run_folder(weights, self.run_id)

    @property
    def model(self) -> Path:
        """A local path of the best model."""
        return self.folder.local(BEST)

    def train(self, on_epoch: OnEpoch, on_step: OnStep, initial: Path | None = None) -> PretrainedModel:
        """Train, see `run_training`; the record of the best model, to be published with it."""
        progress = run_training(self.cubes, self.folder, self.config, on_epoch, on_step, initial)
        device = choose_device(self.config.training.device)
        return PretrainedModel(
            method=METHOD,
            inputs=self.files,
            outputs=(),
            run_id=self.run_id,
            parameters=self.config,
            versions=library_versions(),
            device=device.type,
            precision=choose_precision(self.config.training, device),
            best_epoch=progress.best_epoch,
            best_validation_loss=progress.best_loss,
            metrics=_metrics(progress),
            history=tuple(progress.history),
            channel_weights=progress.channel_weights,
            data=self._inputs.data,
            spacing_mm=self._inputs.spacing_mm,
            intensity_scaling=self._inputs.intensity_scaling,
        )


def train_and_publish(
    cubes: Storage,
    weights: Storage,
    config: PretrainConfig,
    on_epoch: OnEpoch = lambda state: None,
    on_step: OnStep = lambda done, steps: None,
    before_publication: Callable[[], None] = lambda: None,
) -> tuple[PretrainedModel, bool]:
    """Pre-train on the cubes in a folder and publish the best model, unless that was done already; see `fit`.

    Args:
        before_publication: called when training is done; where it raises an error, nothing is published.

    Returns:
        The model's record, and whether any work was done.

    Raises:
        InputError: a model without a record is there: somebody else's.
    """
    stable = stable_model(weights)
    run = Run(cubes, weights, config, training_inputs(cubes, stable.inputs if stable else ()))
    known = find_version(weights, run.run_id) or (stable if stable and stable.run_id == run.run_id else None)
    if known and known.is_finished(config.training):
        is_promoted = promote(weights, run.run_id)
        if stable and is_promoted:
            log.warning("%s, of these cubes and settings, is the stable model now, not %s", run.run_id, stable.run_id)
        return known, is_promoted
    if weights.stat(record_key(MODEL)) is None and stable is None:
        check_ours(weights, MODEL, lambda file: False)
    unfinished = [one.run_id for one in removable(weights) if one.kind == "unpublished"]
    if unfinished and run.run_id not in unfinished:
        log.info("a new training: %s, not finished, had other cubes or settings", shortened(unfinished))
    made = run.train(on_epoch, on_step)
    before_publication()
    made = publish(weights, made, run.model)
    log.info("published %s: epoch %d, validation loss %.5f", MODEL, made.best_epoch, made.best_validation_loss)
    return made, True


def run_training(
    cubes: Storage,
    folder: Storage,
    config: PretrainConfig,
    on_epoch: OnEpoch,
    on_step: OnStep,
    initial: Path | None = None,
) -> Progress:
    """Train in a run's folder, from its last checkpoint on, see `fit`; LockedError if another run does."""
    batch_size = config.training.batch_size
    training, validation = open_training_data(cubes, batch_size)
    log.info(
        f"pre-training {folder.uri.rpartition('/')[2]}: {len(training)} training and {len(validation)} validation "
        f"cubes, {len(training) // batch_size} steps of {batch_size} an epoch, recipe {config.corruption.recipe!r}"
    )
    with locked(folder) as lock, process_group(Job(cubes=cubes.uri, config=config)) as group:
        folder.sweep()

        def watch(state: TrainingState) -> None:
            lock.check()  # else two runs would replace each other's checkpoints
            publish_logs(folder, state, validation, config)
            on_epoch(state)

        try:
            progress = fit(training, validation, config, folder, watch, on_step, initial, group).progress
        except NonFiniteLossError as error:
            if found := training.first_not_finite() or validation.first_not_finite():
                raise NonFiniteLossError(f"{error}; {found}; generate the cubes anew") from error
            raise
    check_best(folder, progress)
    return progress


def _metrics(progress: Progress) -> dict[str, float]:
    """Metrics of the best model."""
    best = progress.history[progress.best_epoch - 1]
    metrics = {"validation_loss": best.validation_loss, "training_loss": best.train_loss}
    if best.explained is not None:
        metrics["explained_variance"] = best.explained
    for name, values in (("explained_variance", best.explained_by_channel), ("spread", best.spread)):
        metrics |= {f"{name}_{channel}": value for channel, value in zip(CHANNELS, values or (), strict=False)}
    return metrics


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers."""
    packages = {name: metadata.version(name) for name in ("zssmnet", "numpy", "SimpleITK")}
    return {"python": platform.python_version(), "torch": str(torch.__version__)} | packages
