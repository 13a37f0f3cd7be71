"""The gate: whether a probe can tell at all what weights are worth, before it says anything of them."""

from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel

from zssmnet.probe.arms import AGAIN, MANY, POSITIVE, SCRATCH, permuted_name
from zssmnet.probe.statistics import Difference

CANNOT_TELL = "cannot tell"


class Condition(BaseModel, frozen=True):
    """What a probe must show before a verdict of it counts."""

    holds: bool
    sentence: str


def conditions(
    compare: Callable[[str, str], Difference],
    arms: Mapping[str, object],
    floor: str,
    again: Difference,
    positive: tuple[str, int] | None,
    seeds: int,
) -> tuple[Condition, ...]:
    """The four conditions.

    Args:
        compare: the paired difference of two arms by their names.
        arms: by name.
        floor: name of the best arm without a network.
        again: scratch again less scratch.
        positive: the positive control's verdict, and the number of its trainings; None without one.
    """
    learns = compare(SCRATCH, floor)
    found = [_condition(learns.low > 0, f"scratch less {floor}, which needs no network: {_figures(learns)}")]
    if MANY in arms:
        gain, least = compare(MANY, SCRATCH), 2 * again.detectable
        sentence = f"{MANY}, less scratch: {_figures(gain)}; needed: {least:.3f}, twice what this run detects"
        found.append(_condition(gain.low > 0 and gain.mean >= least, sentence))
    else:
        found.append(_condition(False, f"{MANY}: there are no more labelled cases; give more, or a smaller --labelled"))
    if positive is None:
        found.append(_condition(False, "no positive control; give one training a seed with --positive-control"))
    else:
        word, trainings = positive
        gain = compare(POSITIVE, SCRATCH)
        sentence = f"{POSITIVE}, less scratch: {word}, {_figures(gain)}; {trainings} trainings for {seeds} seeds"
        found.append(_condition(word == "helps" and trainings == seeds, sentence))
    sentence, holds = f"{AGAIN}, less scratch: {_figures(again)}", not again.excludes_zero
    if positive is not None:
        permuted = compare(permuted_name(POSITIVE), SCRATCH)
        holds = holds and permuted.low <= 0  # scale alone must not help; that it harms misleads nobody
        sentence += f"; {permuted_name(POSITIVE)}, less scratch: {_figures(permuted)}"
    return (*found, _condition(holds, sentence))


def missing(found: Sequence[Condition]) -> str:
    """What is lacking, in words; empty where the gate is open."""
    failed = [f"({letter}) {one.sentence}" for letter, one in zip("abcd", found, strict=True) if not one.holds]
    return f"this probe cannot tell: {'; '.join(failed)}" if failed else ""


def _condition(holds: bool, sentence: str) -> Condition:
    return Condition(holds=holds, sentence=sentence)


def _figures(found: Difference) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
