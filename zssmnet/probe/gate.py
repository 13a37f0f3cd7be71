"""The gate: whether a probe can tell at all what weights are worth, before it says anything of them."""

from collections.abc import Callable, Container, Sequence

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
    arms: Container[str],
    floor: str,
    again: Difference,
    positive: str | None,
    has_all_trainings: bool,
) -> tuple[Condition, ...]:
    """The four conditions.

    Args:
        compare: the paired difference of two arms by their names.
        floor: name of the best arm without a network.
        again: scratch again less scratch.
        positive: the positive control's verdict; None without one.
        has_all_trainings: whether it has one training for each seed.
    """
    learns, again_figures = compare(SCRATCH, floor), f"{AGAIN}, less scratch: {_figures(again)}"
    needs_no_network = Condition(holds=learns.low > 0, sentence=f"scratch less {floor}: {_figures(learns)}")
    labels = Condition(holds=False, sentence="there are no more labelled cases; add some, or take a smaller --labelled")
    if MANY in arms:
        gain, least = compare(MANY, SCRATCH), 2 * again.detectable
        sentence = f"{MANY}, less scratch: {_figures(gain)}; needed: {least:.3f}"
        labels = Condition(holds=gain.low > 0 and gain.mean >= least, sentence=sentence)
    if positive is None:
        found = Condition(holds=False, sentence="no positive control; give one training a seed with --positive-control")
        return needs_no_network, labels, found, Condition(holds=not again.excludes_zero, sentence=again_figures)
    sentence = f"{POSITIVE}, less scratch: {positive}, {_figures(compare(POSITIVE, SCRATCH))}"
    sentence += "" if has_all_trainings else "; it needs one training for each seed"
    found = Condition(holds=positive == "helps" and has_all_trainings, sentence=sentence)
    permuted = compare(permuted_name(POSITIVE), SCRATCH)
    return (
        needs_no_network,
        labels,
        found,
        Condition(
            holds=not again.excludes_zero and permuted.low <= 0,  # scale must not help; that it harms misleads nobody
            sentence=f"{again_figures}; {permuted_name(POSITIVE)}, less scratch: {_figures(permuted)}",
        ),
    )


def missing(found: Sequence[Condition]) -> str:
    """What is lacking, in words; empty where the gate is open."""
    failed = [f"({letter}) {one.sentence}" for letter, one in zip("abcd", found, strict=True) if not one.holds]
    return f"this probe cannot tell: {'; '.join(failed)}" if failed else ""


def _figures(found: Difference) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
