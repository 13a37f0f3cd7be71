"""Training from the first epoch, or from the last checkpoint, to the end: schedule, early stopping, best model."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from zssmnet.config import PretrainConfig, TrainingConfig
from zssmnet.errors import InputError, NonFiniteLossError, OutOfMemoryError
from zssmnet.mnet import MNet
from zssmnet.storage import Storage
from zssmnet.training.checkpoint import (
    LAST,
    EpochResult,
    Progress,
    TrainingState,
    load_weights,
    publish_best,
    publish_last,
    resume,
)
from zssmnet.training.data import CubeSet
from zssmnet.training.doubts import check_alive, check_answers, new_doubts
from zssmnet.training.epoch import OnStep, check_weights, train_epoch, validate
from zssmnet.training.restoration import LAYOUT

log = logging.getLogger(__name__)

INPUT_CHANNELS = 6
"""Three images and three zones."""
OUTPUT_CHANNELS = 3

OnEpoch = Callable[[TrainingState], None]
"""Called after each epoch, before its checkpoint is published."""


def fit(
    training: CubeSet,
    validation: CubeSet,
    config: PretrainConfig,
    workplace: Storage,
    on_epoch: OnEpoch = lambda state: None,
    on_step: OnStep = lambda done, steps: None,
    initial: Path | None = None,
) -> TrainingState:
    """Train until the epochs are done or the validation loss has not improved for ``patience`` epochs.

    Args:
        training, validation: the cubes.
        config: everything that decides the weights.
        workplace: where ``last.checkpoint`` and ``best.model`` of this run are published; a run that finds a last
            checkpoint there continues from it.
        on_epoch: called after each epoch, before its checkpoint is published.
        on_step: called within an epoch, with the number of steps done and of all steps.
        initial: file of the weights that a new run begins with; None draws them from the seed.

    Raises:
        NonFiniteLossError: the loss or a weight is NaN or infinite; the last checkpoint is kept.
        CollapsedError: the network answers nothing but a constant and cannot learn any more.
        OutOfMemoryError: a batch does not fit into the GPU's memory.
        CheckpointError: the last checkpoint or ``initial`` cannot be used.
    """
    device = choose_device(config.training.device)
    with _out_of_memory_errors(config.training.batch_size, device):
        state = initial_state(config, device, initial)
        if workplace.stat(LAST):
            resume(workplace, state)
            progress = state.progress
            log.info("continuing after epoch %d, best validation loss %.5f", progress.epoch, progress.best_loss)
        while not is_finished(state.progress, config.training):
            started = time.monotonic()
            with _telling_where(state.progress, workplace):
                is_best = _run_epoch(state, training, validation, config, device, on_step)
            _log_epoch(state.progress, is_best, len(training), time.monotonic() - started, config.training)
            check_alive(state.progress)
            on_epoch(state)
            publish_last(workplace, state)
            if is_best:
                publish_best(workplace, state)
    check_answers(state.progress)
    return state


def evaluate(model: Path, validation: CubeSet, config: PretrainConfig) -> float:
    """The validation loss of a file of weights, as `fit` takes it after an epoch; infinite if it is not finite.

    Raises:
        CheckpointError: the file cannot be used with the network of ``config``.
        OutOfMemoryError: a batch does not fit into the GPU's memory.
    """
    recipe, device = config.training, choose_device(config.training.device)
    with _out_of_memory_errors(recipe.batch_size, device):
        network = initial_state(config, device, model).model
        try:
            return validate(
                network, validation, recipe.batch_size, config.corruption, recipe.validation_seed, device
            ).loss
        except NonFiniteLossError:
            return math.inf


def initial_state(config: PretrainConfig, device: torch.device, initial: Path | None = None) -> TrainingState:
    """A new run: weights from the file ``initial``, if there is one; all else from the seed."""
    recipe = config.training
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)  # the CPU's alone: the weights are drawn there
        model = MNet(INPUT_CHANNELS, OUTPUT_CHANNELS, config.network.channels, config.network.merge)
    if initial:
        load_weights(model, initial)
    model.to(device, memory_format=LAYOUT)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=recipe.halve_every, gamma=0.5)
    return TrainingState(model, optimizer, schedule, torch.Generator().manual_seed(recipe.seed), Progress())


def is_finished(progress: Progress, recipe: TrainingConfig) -> bool:
    """Whether the epochs are done or patience has run out."""
    return progress.epoch >= recipe.epochs or progress.epoch - progress.best_epoch >= recipe.patience


def choose_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: ``cuda`` without a usable GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device can be used here; choose --device auto or --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _run_epoch(
    state: TrainingState,
    training: CubeSet,
    validation: CubeSet,
    config: PretrainConfig,
    device: torch.device,
    on_step: OnStep,
) -> bool:
    recipe = config.training
    learning_rate = state.schedule.get_last_lr()[0]
    train_loss = train_epoch(
        state.model,
        state.optimizer,
        training,
        recipe.batch_size,
        config.corruption,
        state.generator,
        device,
        on_step,
    )
    state.schedule.step()
    check_weights(state.model)
    found = validate(state.model, validation, recipe.batch_size, config.corruption, recipe.validation_seed, device)
    epoch = state.progress.epoch + 1
    return state.progress.add(
        EpochResult(epoch, train_loss, found.loss, float(learning_rate), found.explained, found.spread)
    )


@contextmanager
def _telling_where(progress: Progress, workplace: Storage) -> Iterator[None]:
    """An error of an epoch tells which one, and where training can go on from."""
    try:
        yield
    except NonFiniteLossError as error:
        kept = f"last checkpoint: {workplace.where(LAST)}, of epoch {progress.epoch}"
        where = f"epoch {progress.epoch + 1}; {kept if progress.epoch else 'there is no checkpoint yet'}"
        raise NonFiniteLossError(f"{error} ({where})") from error


@contextmanager
def _out_of_memory_errors(batch_size: int, device: torch.device) -> Iterator[None]:
    """PyTorch's error becomes one that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = f"a smaller --batch-size, for example {batch_size // 2}" if batch_size > 1 else "fewer --channels"
        raise OutOfMemoryError(
            f"a batch of {batch_size} cubes does not fit into the memory of {device}; choose {smaller}"
        ) from error


def _log_epoch(progress: Progress, is_best: bool, cubes: int, seconds: float, recipe: TrainingConfig) -> None:
    result = progress.history[-1]
    standing = "best so far" if is_best else f"best {progress.best_loss:.5f} in epoch {progress.best_epoch}"
    log.info(
        "epoch %d of %d: training loss %.5f, validation loss %.5f (%s), %s explained, learning rate %g, %.1f cubes/s",
        result.epoch,
        recipe.epochs,
        result.train_loss,
        result.validation_loss,
        standing,
        f"{result.explained or 0.0:.1%}",
        result.learning_rate,
        cubes / seconds,
    )
    for doubt in new_doubts(progress.history, cubes // recipe.batch_size):
        log.warning("epoch %d: %s", result.epoch, doubt.meaning)
