"""Training from the first epoch, or from the last checkpoint, to the end: schedule, early stopping, best model."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from zssmnet.config import PretrainConfig, TrainingConfig
from zssmnet.errors import NonFiniteLossError
from zssmnet.storage import Storage
from zssmnet.training.checkpoint import LAST, Progress, TrainingState, publish_best, publish_last, resume
from zssmnet.training.dataset import CubeSet
from zssmnet.training.diagnostics import check_alive, check_predictions, new_training_warnings
from zssmnet.training.distributed import SINGLE, Group
from zssmnet.training.epoch import OnStep
from zssmnet.training.precision import choose_device
from zssmnet.training.trainer import Trainer, initial_state

log = logging.getLogger(__name__)

OnEpoch = Callable[[TrainingState], None]
"""Called after each epoch, before its checkpoint is published."""


def fit(
    training: CubeSet,
    validation: CubeSet,
    config: PretrainConfig,
    workplace: Storage | None,
    on_epoch: OnEpoch = lambda state: None,
    on_step: OnStep = lambda done, steps: None,
    initial: Path | None = None,
    group: Group = SINGLE,
) -> TrainingState:
    """Train until the epochs are done or the validation loss has not improved for ``patience`` epochs.

    Args:
        workplace: where ``last.checkpoint`` and ``best.model`` of this run are published; a run that finds a last
            checkpoint there continues from it. None in a worker, which has rank 0's state and writes nothing.
        on_step: see `train_epoch`.
        initial: file of the weights that a new run begins with; None draws them from the seed.
        group: the processes that train together, each of which calls this function.

    Raises:
        NonFiniteLossError: the loss or a weight is NaN or infinite; the last checkpoint is kept.
        CollapsedError: the network predicts nothing but a constant and cannot learn any more.
        OutOfMemoryError: a batch does not fit into the GPU's memory.
        CheckpointError: the last checkpoint or ``initial`` cannot be used.
    """
    device = choose_device(config.training.device, group.local_rank)
    state = initial_state(config, device, initial, training if workplace else None)
    if workplace and resume(workplace, state):
        log.info("continuing after epoch %d, best validation loss %.5f", state.progress.epoch, state.progress.best_loss)
    trainer: Trainer | None = None
    while not group.broadcast(is_finished(state.progress, config.training)):
        trainer = trainer or Trainer(state, training, validation, config, group)
        started = time.monotonic()
        try:
            is_best = state.progress.add(trainer.epoch(on_step))
        except NonFiniteLossError as error:
            done = state.progress.epoch
            kept = f"last checkpoint: {workplace.where(LAST)}, of epoch {done}" if workplace else "see rank 0"
            where = f"epoch {done + 1}; {kept if done else 'there is no checkpoint yet'}"
            raise NonFiniteLossError(f"{error} ({where})") from error
        if workplace:
            _log_epoch(state.progress, is_best, len(training), time.monotonic() - started, config.training)
            check_alive(state.progress)
            on_epoch(state)
            publish_last(workplace, state)
            if is_best:
                publish_best(workplace, state)
    if workplace:
        check_predictions(state.progress)
    return state


def evaluate(model: Path, validation: CubeSet, config: PretrainConfig, training: CubeSet | None = None) -> float:
    """The validation loss of a file of weights, as `fit` takes it after an epoch; infinite if it is not finite.

    Args:
        training: the training cubes, on which `loss_weighting` measures.

    Raises:
        CheckpointError: the file cannot be used with the network of ``config``.
        OutOfMemoryError: a batch does not fit into the GPU's memory.
    """
    state = initial_state(config, choose_device(config.training.device), model, training)
    try:
        return Trainer(state, validation, validation, config).validate().loss
    except NonFiniteLossError:
        return math.inf


def is_finished(progress: Progress, recipe: TrainingConfig) -> bool:
    """Whether the epochs are done or patience has run out."""
    return progress.epoch >= recipe.epochs or progress.epoch - progress.best_epoch >= recipe.patience


def _log_epoch(progress: Progress, is_best: bool, cubes: int, seconds: float, recipe: TrainingConfig) -> None:
    result = progress.history[-1]
    standing = "best so far" if is_best else f"best {progress.best_loss:.5f} in epoch {progress.best_epoch}"
    log.info(
        f"epoch {result.epoch} of {recipe.epochs}: training loss {result.train_loss:.5f}, validation loss "
        f"{result.validation_loss:.5f} ({standing}), {result.quality}, learning rate {result.learning_rate:g}, "
        f"{cubes / seconds:.1f} cubes/s"
    )
    for warning in new_training_warnings(progress.history, cubes // recipe.batch_size).values():
        log.warning("epoch %d: %s", result.epoch, warning)
