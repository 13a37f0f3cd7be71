"""What makes finite numbers doubtful: an output that collapsed, a network that learns nothing, a stuck validation.

A doubt is told, and training goes on: networks were seen to recover from all of these. It ends where none can: where
all three restored images were constant to the last digit, and an epoch of training changed nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zssmnet.data.archive import CHANNELS
from zssmnet.errors import CollapsedError
from zssmnet.training.checkpoint import EpochResult, Progress

CONSTANT = 1e-3
"""Spread of a channel, relative to the images', below which it counts as constant: what learns stays above 2e-3."""
BEGINNERS_STEPS = 500
"""Steps that a network may take before it has to be better than a constant: small ones were seen to need over 80."""
_WAY_OUT = "train anew with a smaller learning_rate or another --seed"


@dataclass(frozen=True)
class Doubt:
    """One thing that is wrong with an epoch.

    Attributes:
        name: a few words for a display.
        meaning: what it means, and what to do.
    """

    name: str
    meaning: str


def doubts(history: Sequence[EpochResult], steps: int) -> list[Doubt]:
    """What is wrong with the last epoch.

    Args:
        history: all epochs up to it.
        steps: steps of one epoch.
    """
    last, before = history[-1], history[-2] if len(history) > 1 else None
    found = []
    if channels := ", ".join(_constant_channels(last)):
        found.append(
            Doubt(f"{channels} collapsed", f"{channels} is restored as a constant; if it stays so, {_WAY_OUT}")
        )
    if before and last.explained is not None and last.explained <= 0 and last.epoch * steps >= BEGINNERS_STEPS:
        meaning = "the network restores no better than one constant for each channel; if it stays so"
        found.append(Doubt("no better than a constant", f"{meaning}, {_WAY_OUT}, or look for odd cubes in the reports"))
    if before and last.validation_loss == before.validation_loss:
        meaning = "the validation loss is that of the epoch before to the last digit: the weights change no more"
        way_out = f"at the learning rate {last.learning_rate:g} it cannot improve; stop, or train anew with another one"
        found.append(Doubt("validation is stuck", f"{meaning}, and {way_out}"))
    return found


def new_doubts(history: Sequence[EpochResult], steps: int) -> list[Doubt]:
    """Those that there were not after the epoch before: a doubt that stays is told once."""
    known = {doubt.name for doubt in doubts(history[:-1], steps)} if len(history) > 1 else set()
    return [doubt for doubt in doubts(history, steps) if doubt.name not in known]


def check_alive(progress: Progress) -> None:
    """End a training that is beyond hope.

    Raises:
        CollapsedError: the output has been constant to the last digit for two epochs, in which nothing changed.
    """
    if progress.epoch > 1:
        before, last = progress.history[-2:]
        if _is_constant(before) and _is_constant(last) and before.validation_loss == last.validation_loss:
            kept = "" if _is_constant(progress.history[progress.best_epoch - 1]) else "; the best model so far is kept"
            raise CollapsedError(
                f"the restored images are constant after epoch {before.epoch}, and epoch {last.epoch} changed nothing: "
                f"the network cannot learn any more{kept}; {_WAY_OUT}"
            )


def check_answers(progress: Progress) -> None:
    """Keep a model that answers nothing but a constant from being published.

    Raises:
        CollapsedError: it does, to the last digit.
    """
    best = progress.history[progress.best_epoch - 1]
    if _is_constant(best):
        raise CollapsedError(
            f"the best model, of epoch {best.epoch}, restores all cubes as constants: it is not published; {_WAY_OUT}"
        )


def _constant_channels(result: EpochResult) -> list[str]:
    return [name for name, spread in zip(CHANNELS, result.spread or (), strict=False) if spread < CONSTANT]


def _is_constant(result: EpochResult) -> bool:
    return result.spread == (0.0, 0.0, 0.0)
