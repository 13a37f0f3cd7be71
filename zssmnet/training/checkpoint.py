"""Checkpoints: the whole state at the end of an epoch, from which a resumed run ends as an uninterrupted one."""

import math
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from zssmnet.data.archive import CHANNELS
from zssmnet.errors import CheckpointError
from zssmnet.storage import Storage
from zssmnet.storage.ownership import check_no_folder
from zssmnet.training.optimizer import MACHINE_CHOICES, load_state, state_of
from zssmnet.training.tensor_files import load_tensors, save_tensors

LAST = "last.checkpoint"
BEST = "best.model"
_BOTH = f"remove it and {LAST} to start anew"
_CHANGING = ("params", "lr", *MACHINE_CHOICES)
"""Options of an optimizer's groups that may differ from those of the checkpoint."""
_MISFITS = (LookupError, AttributeError, TypeError, ValueError, RuntimeError)
"""What PyTorch raises where a checkpoint holds something else."""


@dataclass(frozen=True)
class EpochResult:
    """Results of one epoch, counted from 1.

    Attributes:
        explained, explained_by_channel, spread: as in `Validation`; None in a checkpoint of an earlier version.
        collapsed: channels that this epoch found and left collapsed, see `collapsed_channels`.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    explained: float | None = None
    spread: tuple[float, float, float] | None = None
    explained_by_channel: tuple[float, float, float] | None = None
    collapsed: tuple[str, ...] = ()

    @property
    def quality(self) -> str:
        """Explained variance, of all images and of each, for a line; empty if it was not recorded."""
        each = zip(CHANNELS, self.explained_by_channel or (), strict=False)
        shares = ", ".join(f"{name} {share:.1%}" for name, share in each)
        total = "" if self.explained is None else f"explained variance {self.explained:.1%}"
        return f"{total} ({shares})" if shares else total


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        channel_weights: of T2W, ADC and DWI in the loss, measured when it began; None: equal.
    """

    history: list[EpochResult] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = float("inf")
    channel_weights: tuple[float, float, float] | None = None

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def add(self, result: EpochResult) -> bool:
        """Note an epoch; True if it is the best so far."""
        self.history.append(result)
        if result.validation_loss < self.best_loss:
            self.best_epoch, self.best_loss = result.epoch, result.validation_loss
        return self.best_epoch == result.epoch


@dataclass(frozen=True)
class TrainingState:
    """The changing state of a training."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    progress: Progress
    scaler: GradScaler = field(default_factory=lambda: GradScaler("cpu"))
    """Of the loss in float16."""


def publish_last(workplace: Storage, state: TrainingState) -> None:
    """Publish the complete state of a run."""
    with workplace.publishing(LAST) as path:
        save_tensors(content_of(state), path)


def content_of(state: TrainingState) -> dict[str, Any]:
    """The complete state of a run as tensors on the CPU and plain values, of which no machine's choices are a part."""
    return _weights(state) | {
        "schedule_state_dict": state.schedule.state_dict(),
        "generator_state": state.generator.get_state(),
        "scaler_state_dict": state.scaler.state_dict(),
        **asdict(state.progress),
    }


def load_content(state: TrainingState, content: dict[str, Any]) -> None:
    """Set ``state`` to what ``content_of`` gave; values are not checked."""
    state.model.load_state_dict(content["state_dict"])
    load_state(state.optimizer, content["optimizer_state_dict"])
    state.schedule.load_state_dict(content["schedule_state_dict"])
    state.generator.set_state(content["generator_state"])
    if "scaler_state_dict" in content:  # earlier versions had a fixed scale
        state.scaler.load_state_dict(content["scaler_state_dict"])
    state.progress.history = [EpochResult(**one) for one in content["history"]]
    state.progress.best_epoch, state.progress.best_loss = content["best_epoch"], content["best_loss"]
    state.progress.channel_weights = content.get("channel_weights")


def publish_best(workplace: Storage, state: TrainingState) -> None:
    """Publish the model as the published program does: epoch, state_dict, optimizer_state_dict."""
    with workplace.publishing(BEST) as path:
        save_tensors(_weights(state), path)


def resume(workplace: Storage, state: TrainingState) -> bool:
    """Bring ``state`` to where the run stopped; whether there is a last checkpoint.

    A run may have been stopped between publishing its last checkpoint and its best model, where both are of the
    same epoch: then the best model is published again.

    Raises:
        CheckpointError: the checkpoint is unreadable or does not fit, or the best model is gone.
        InputError: a folder has the name of one of both.
    """
    check_no_folder(workplace, LAST, BEST)
    where = workplace.where(LAST)
    if workplace.stat(LAST) is None:
        return False
    content = load_checkpoint(workplace.local(LAST), where)
    settings = _settings(state)
    try:
        load_content(state, content)
        _check_progress(state.progress)
        _check_state(state)
        if _settings(state) != settings:
            raise ValueError(f"its settings are {_settings(state)}, not {settings}")
    except _MISFITS as error:
        raise _misfit(where, error, "remove it to start anew") from error
    if state.progress.best_epoch == state.progress.epoch:
        publish_best(workplace, state)
    elif workplace.stat(BEST) is None:
        raise CheckpointError(f"{where}: the best model, {BEST}, is gone from its folder; remove both to start anew")
    return True


def load_weights(model: nn.Module, path: Path) -> None:
    """Give a network the weights of a file; CheckpointError if it is unreadable or of another network."""
    content = load_checkpoint(path)
    try:
        model.load_state_dict(content["state_dict"])
    except _MISFITS as error:
        raise _misfit(path, error, "choose the network it was made with") from error


def check_best(workplace: Storage, progress: Progress) -> None:
    """Raise a CheckpointError if a run's best model, read back, is not the best epoch's, or not finite."""
    where = workplace.where(BEST)
    content = load_checkpoint(workplace.local(BEST), where)
    weights = content.get("state_dict")
    found = list(weights.values()) if isinstance(weights, dict) else []
    if content.get("epoch") != progress.best_epoch or not found:
        raise CheckpointError(f"{where}: is not the model of epoch {progress.best_epoch}; {_BOTH}")
    if broken := sum(not tensor.isfinite().all() for tensor in found):
        raise CheckpointError(f"{where}: {broken} of {len(found)} tensors are not finite; {_BOTH}")


def load_checkpoint(path: Path, name: str | None = None) -> dict[str, Any]:
    """Read a checkpoint, weights and plain values only, onto the CPU; CheckpointError if it is none, or damaged.

    Args:
        name: its address, for messages, where ``path`` is a copy.
    """
    try:
        content = load_tensors(path)
    except Exception as error:  # on foreign or damaged bytes torch.load raises nearly any type
        raise CheckpointError(f"{name or path}: not a readable checkpoint; remove it to start anew") from error
    if isinstance(content, dict):
        return content
    kind = type(content).__name__
    raise CheckpointError(f"{name or path}: holds a {kind}, not a checkpoint; remove it to start anew")


def _check_progress(progress: Progress) -> None:
    """Check that the best epoch is the one that follows from the history."""
    expected = Progress()
    for number, result in enumerate(progress.history, 1):
        numbers = (result.train_loss, result.validation_loss, result.learning_rate)
        if result.epoch != number or not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
            raise ValueError(f"the history of epoch {number} cannot be true: {result}")
        expected.add(result)
    if not expected.history or (expected.best_epoch, expected.best_loss) != (progress.best_epoch, progress.best_loss):
        raise ValueError(f"the best epoch is {progress.best_epoch!r}, but by the history it is {expected.best_epoch}")


def _settings(state: TrainingState) -> list[Any]:
    """Optimizer settings that no epoch changes; the learning rate is checked apart."""
    groups = state.optimizer.state_dict()["param_groups"]
    settings = [{name: value for name, value in group.items() if name not in _CHANGING} for group in groups]
    schedule = state.schedule.state_dict()
    return [*settings, *(schedule[name] for name in ("base_lrs", "step_size", "gamma") if name in schedule)]


def _check_state(state: TrainingState) -> None:
    """Check what PyTorch does not: that all is finite, of the right shape, and of one epoch."""
    if bad := [name for name, tensor in state.model.state_dict().items() if not tensor.isfinite().all()]:
        raise ValueError(f"{len(bad)} tensors of state_dict hold NaN or infinity, {bad[0]} first")
    for weight, buffers in state.optimizer.state.items():
        for name, buffer in buffers.items():
            fits = buffer is None or ((name == "step" or buffer.shape == weight.shape) and buffer.isfinite().all())
            if not fits:
                raise ValueError("the optimizer's momentum is not finite, or of another shape than the weights")
    if state.schedule.last_epoch != state.progress.epoch:
        raise ValueError(
            f"the schedule is at epoch {state.schedule.last_epoch!r}, the history at {state.progress.epoch}"
        )
    rates = [group["lr"] for group in state.optimizer.param_groups]
    if rates != state.schedule.get_last_lr() or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(
            f"the learning rate is {rates} in the optimizer, {state.schedule.get_last_lr()} in the schedule"
        )


def _misfit(where: object, error: Exception, way_out: str) -> CheckpointError:
    reason = f"lacks {error}" if isinstance(error, KeyError) else textwrap.shorten(str(error), 240)
    return CheckpointError(f"{where}: does not fit: {reason}; {way_out}")


def _weights(state: TrainingState) -> dict[str, Any]:
    return {
        "epoch": state.progress.epoch,
        "state_dict": _on_cpu(state.model.state_dict()),
        "optimizer_state_dict": _on_cpu(state_of(state.optimizer)),
    }


def _on_cpu(content: Any) -> Any:
    """Nested dicts with their tensors on the CPU: files can be read where there is no GPU."""
    if isinstance(content, dict):
        return {name: _on_cpu(value) for name, value in content.items()}
    if not isinstance(content, Tensor):
        return content
    # flattened and back: where an axis has one voxel, channels-last counts as contiguous, but has other strides
    return content.cpu().contiguous().view(-1).view(content.shape)
