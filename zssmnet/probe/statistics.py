"""Paired comparisons over seeds and test cases: intervals, Holm's correction, what could have been shown."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

LEVEL, POWER = 0.05, 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Difference:
    """A paired difference of two arms.

    Attributes:
        mean: over seeds and cases.
        low, high: 95 % interval.
        p: two-sided p value that it is 0.
        detectable: smallest true difference that this run detects at 80 % power.
        seeds_for_half: seeds that would detect half of that; None where more test cases are needed instead.
        each_seed: the mean difference of each seed.
    """

    mean: float
    low: float
    high: float
    p: float
    detectable: float
    seeds_for_half: int | None
    each_seed: tuple[float, ...]

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0


def paired_difference(first_SC: npt.ArrayLike, second_SC: npt.ArrayLike) -> Difference:
    """Compare two arms, figure by figure, over seeds (rows) and test cases (columns): both vary at random.

    The variance of the mean is that of two crossed random effects; the interval is Student's with a degree of freedom
    less than there are seeds.

    Raises:
        ValueError: fewer than two seeds.
    """
    difference = np.asarray(first_SC, np.float64) - np.asarray(second_SC, np.float64)
    seeds = len(difference)
    if seeds < 2:
        raise ValueError("an interval needs at least two seeds")
    by_seed, by_case = _variances(difference)
    mean, variance = float(difference.mean()), by_seed / seeds + by_case
    error = math.sqrt(variance)
    reach = float(stdtrit(seeds - 1, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(seeds - 1, -abs(mean) / error)) if error else float(mean == 0)
    detectable = _detectable(by_seed, by_case, seeds)
    more = bisect_left(
        range(MOST_SEEDS), True, lo=seeds, key=lambda n: _detectable(by_seed, by_case, n) <= detectable / 2
    )
    each = tuple(float(one) for one in difference.mean(axis=1))
    return Difference(mean, mean - reach, mean + reach, p, detectable, more if more < MOST_SEEDS else None, each)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scand. J. Statist. 6:65, 1979): each below the level is significant among all."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, np.float64)[order] * factors), 1.0)
    return [float(one) for one in adjusted]


def _variances(difference_SC: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Variance of one seed's mean, and that of the mean over all seeds which the choice of cases adds."""
    seeds, cases = difference_SC.shape
    by_seed = float(difference_SC.mean(axis=1).var(ddof=1))
    if cases < 2:
        return by_seed, 0.0
    rows, columns = difference_SC.mean(axis=1, keepdims=True), difference_SC.mean(axis=0, keepdims=True)
    rest = difference_SC - rows - columns + difference_SC.mean()
    residual = float((rest**2).sum()) / ((seeds - 1) * (cases - 1))
    by_case = float(columns.var(ddof=1)) / cases - residual / (seeds * cases)
    return by_seed, max(by_case, 0.0)


def _detectable(by_seed: float, by_case: float, seeds: int) -> float:
    reach = float(stdtrit(seeds - 1, 1 - LEVEL / 2) + stdtrit(seeds - 1, POWER))
    return reach * math.sqrt(by_seed / seeds + by_case)


def verdict(
    against_scratch: Difference,
    adjusted_p: float,
    against_permuted: Difference,
    against_floor: Difference,
) -> tuple[str, str]:
    """Whether weights help: ``helps``, ``not shown`` or ``harms``; and why, in words.

    Args:
        against_scratch, against_permuted, against_floor: paired differences of the endpoint; the floor is the best arm
            without a network.
        adjusted_p: of the first, after Holm's correction.
    """
    is_significant = adjusted_p < LEVEL
    if is_significant and against_scratch.mean < 0:
        return "harms", "scratch is better"
    lacking = []
    if not is_significant:
        lacking.append("no better than scratch")
    if against_permuted.low <= 0:
        lacking.append("no better than the same values permuted")
    if against_floor.low <= 0:
        lacking.append("no better than the best arm without a network")
    return ("not shown", ", ".join(lacking)) if lacking else ("helps", "better than scratch, permuted and the floor")
