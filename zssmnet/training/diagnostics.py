"""Training warnings: an output that collapsed or saturated, a network that learns nothing, a stuck validation.

A warning is logged and training continues: networks have recovered from all of these. Training stops where none can:
when a channel is restored as a constant, no better than the best one, and an epoch of training changed nothing in it.
"""

import logging
from collections.abc import Iterable, Sequence

from torch import Tensor

from zssmnet.data.archive import CHANNELS
from zssmnet.errors import CollapsedError
from zssmnet.training.checkpoint import EpochResult, Progress
from zssmnet.training.epoch import Validation

log = logging.getLogger(__name__)

CONSTANT = 1e-3
"""Spread of a channel, relative to the images', below which it counts as constant: what learns stays above 2e-3."""
UNCHANGED = 1e-6
"""Relative change of a channel's squared error below which an epoch left it as it was."""
BEGINNERS_STEPS = 500
"""Steps after which a network has to be better than a constant; small networks needed more than 80."""
SATURATED, SATURATED_SHARE = 1e-3, 0.99
"""Distance from 0 or 1 below which a voxel is saturated; share of saturated voxels above which a channel is."""
_WAY_OUT = "train anew with a smaller learning_rate or another --seed"


def training_warnings(history: Sequence[EpochResult], steps: int) -> dict[str, str]:
    """Warnings about the last epoch: by a short name for a display, the meaning with what to do."""
    last, before = history[-1], history[-2] if len(history) > 1 else None
    found = {}
    if channels := ", ".join(name for name, spread in _by_channel(last.spread) if spread < CONSTANT):
        found[f"{channels} collapsed"] = f"the network restores a constant for {channels}; if it stays so, {_WAY_OUT}"
    poor = ", ".join(name for name, explained in _by_channel(last.explained_by_channel) if explained <= 0)
    if before and poor and last.epoch * steps >= BEGINNERS_STEPS:
        found[f"{poor} no better than a constant"] = (
            f"the network restores {poor} no better than a constant does; if it stays so, {_WAY_OUT}, or "
            'with loss_weighting = "variance", or look for odd cubes in the reports'
        )
    if before and last.validation_loss == before.validation_loss:
        found["validation is stuck"] = (
            "the validation loss is that of the epoch before to the last digit: the weights change no more, and at the "
            f"learning rate {last.learning_rate:g} it cannot improve; stop, or train anew with another one"
        )
    return found


def new_training_warnings(history: Sequence[EpochResult], steps: int) -> dict[str, str]:
    """Warnings about the last epoch that the epoch before did not have: each is logged once."""
    known = training_warnings(history[:-1], steps) if len(history) > 1 else {}
    return {name: text for name, text in training_warnings(history, steps).items() if name not in known}


def warn_if_saturated(step: int, restored_NCZYX: Tensor) -> None:
    """Log a warning if a channel is restored as 0 or 1 nearly everywhere: no gradient gets through such a sigmoid."""
    extreme = (restored_NCZYX - 0.5).abs() > 0.5 - SATURATED
    shares = extreme.float().mean(dim=(0, 2, 3, 4)).tolist()
    if channels := ", ".join(name for name, share in zip(CHANNELS, shares, strict=True) if share > SATURATED_SHARE):
        log.warning(
            "after %d steps the network restores %s as 0 or 1 nearly everywhere (saturated): it may never learn; stop, "
            "and train anew with calibrated_head = true, another --seed or a smaller learning rate",
            step,
            channels,
        )


def collapsed_channels(before: Validation, after: Validation) -> tuple[str, ...]:
    """Channels that are restored as constants, no better than the best one, and that an epoch has not changed."""
    return tuple(
        name
        for name, spread, was, now in zip(
            CHANNELS, after.spread, before.explained_by_channel, after.explained_by_channel, strict=True
        )
        if spread < CONSTANT and now <= 0 and abs(now - was) <= UNCHANGED * (1 - now)
    )


def check_alive(progress: Progress) -> None:
    """Raise a CollapsedError if a channel has collapsed in a way that the last epoch did not change."""
    last = progress.history[-1]
    if last.collapsed:
        kept = "" if progress.best_epoch == last.epoch else "; the best model so far is kept"
        raise CollapsedError(
            f"the network restores a constant for {', '.join(last.collapsed)}, and epoch {last.epoch} changed nothing: "
            f"it cannot learn that any more{kept}; {_WAY_OUT}"
        )


def check_predictions(progress: Progress) -> None:
    """Raise a CollapsedError if the best model restores all channels as constants: it is not published."""
    best = progress.history[progress.best_epoch - 1]
    if best.spread and max(best.spread) < CONSTANT and (best.explained or 0.0) <= 0:
        raise CollapsedError(
            f"the best model, of epoch {best.epoch}, restores all cubes as constants: it is not published; {_WAY_OUT}"
        )


def _by_channel(values: Sequence[float] | None) -> Iterable[tuple[str, float]]:
    """With the channels' names; empty for results that earlier versions did not have."""
    return zip(CHANNELS, values or (), strict=False)
