"""Training warnings: an output that collapsed or saturated, a network that learns nothing, a stuck validation.

A warning is logged and training continues: networks have recovered from all of these. Training stops where none can:
when all three restored images are constant to the last digit and an epoch of training changed nothing.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zssmnet.data.archive import CHANNELS
from zssmnet.errors import CollapsedError
from zssmnet.training.checkpoint import EpochResult, Progress

log = logging.getLogger(__name__)

CONSTANT = 1e-3
"""Spread of a channel, relative to the images', below which it counts as constant: what learns stays above 2e-3."""
BEGINNERS_STEPS = 500
"""Steps after which a network has to be better than a constant; small networks needed more than 80."""
SATURATED, SATURATED_SHARE = 1e-3, 0.99
"""Distance from 0 or 1 below which a voxel is saturated; share of saturated voxels above which a channel is."""
_WAY_OUT = "train anew with a smaller learning_rate or another --seed"


@dataclass(frozen=True)
class TrainingWarning:
    """A problem of an epoch: a short name for a display, and its meaning with what to do."""

    name: str
    meaning: str


def training_warnings(history: Sequence[EpochResult], steps: int) -> list[TrainingWarning]:
    """Warnings about the last epoch."""
    last, before = history[-1], history[-2] if len(history) > 1 else None
    found = []
    spreads = zip(CHANNELS, last.spread or (), strict=False)
    if channels := ", ".join(name for name, spread in spreads if spread < CONSTANT):
        found.append(
            TrainingWarning(
                f"{channels} collapsed", f"{channels} is restored as a constant; if it stays so, {_WAY_OUT}"
            )
        )
    if before and last.explained is not None and last.explained <= 0 and last.epoch * steps >= BEGINNERS_STEPS:
        meaning = "the network restores no better than one constant for each channel; if it stays so"
        found.append(
            TrainingWarning("no better than a constant", f"{meaning}, {_WAY_OUT}, or look for odd cubes in the reports")
        )
    if before and last.validation_loss == before.validation_loss:
        meaning = "the validation loss is that of the epoch before to the last digit: the weights change no more"
        way_out = f"at the learning rate {last.learning_rate:g} it cannot improve; stop, or train anew with another one"
        found.append(TrainingWarning("validation is stuck", f"{meaning}, and {way_out}"))
    return found


def new_training_warnings(history: Sequence[EpochResult], steps: int) -> list[TrainingWarning]:
    """Warnings about the last epoch that the epoch before did not have: each is logged once."""
    known = {one.name for one in training_warnings(history[:-1], steps)} if len(history) > 1 else set()
    return [one for one in training_warnings(history, steps) if one.name not in known]


def warn_if_saturated(step: int, restored_NCZYX: Tensor) -> None:
    """Log a warning if a channel is restored as 0 or 1 nearly everywhere: no gradient gets through such a sigmoid."""
    extreme = (restored_NCZYX - 0.5).abs() > 0.5 - SATURATED
    shares = extreme.float().mean(dim=(0, 2, 3, 4)).tolist()
    if channels := ", ".join(name for name, share in zip(CHANNELS, shares, strict=True) if share > SATURATED_SHARE):
        log.warning(
            "after %d steps %s is restored as 0 or 1 nearly everywhere (saturated): it may never learn; stop, and "
            "train anew with calibrated_head = true, another --seed or a smaller learning rate",
            step,
            channels,
        )


def check_alive(progress: Progress) -> None:
    """Raise a CollapsedError if the output was constant to the last digit for two epochs, and nothing changed."""
    if progress.epoch > 1:
        before, last = progress.history[-2:]
        if _is_constant(before) and _is_constant(last) and before.validation_loss == last.validation_loss:
            kept = "" if _is_constant(progress.history[progress.best_epoch - 1]) else "; the best model so far is kept"
            raise CollapsedError(
                f"the restored images are constant after epoch {before.epoch}, and epoch {last.epoch} changed nothing: "
                f"the network cannot learn any more{kept}; {_WAY_OUT}"
            )


def check_predictions(progress: Progress) -> None:
    """Raise a CollapsedError if the best model predicts constants, to the last digit: it is not published."""
    best = progress.history[progress.best_epoch - 1]
    if _is_constant(best):
        raise CollapsedError(
            f"the best model, of epoch {best.epoch}, restores all cubes as constants: it is not published; {_WAY_OUT}"
        )


def _is_constant(result: EpochResult) -> bool:
    return result.spread == (0.0, 0.0, 0.0)
