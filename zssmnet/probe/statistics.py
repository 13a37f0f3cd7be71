"""Paired comparisons over seeds and test cases: intervals, Holm's correction, what could have been shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

LEVEL, POWER = 0.05, 0.8
SIMULATED = 400
"""Runs that are simulated for the power of a verdict."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A paired difference of two arms.

    Attributes:
        mean: over seeds and cases.
        low, high: 95 % interval.
        p: two-sided p value that it is 0.
        detectable: smallest true difference that this comparison alone detects at 80 % power.
        limited_by: what varies more, ``seeds`` or ``test cases``: more of them would detect less.
        each_seed: the mean difference of each seed.
    """

    mean: float
    low: float
    high: float
    p: float
    detectable: float
    limited_by: str
    each_seed: tuple[float, ...]

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def paired_difference(first_SC: npt.ArrayLike, second_SC: npt.ArrayLike) -> Difference:
    """Compare two arms, figure by figure, over seeds (rows) and test cases (columns): both vary at random.

    The variance of the mean is that of two crossed random effects; Student's distribution has Satterthwaite's degrees
    of freedom (Biometrics Bull. 2:110, 1946).

    Args:
        first_SC, second_SC: of two seeds at least.
    """
    difference_SC = np.asarray(first_SC, np.float64) - np.asarray(second_SC, np.float64)
    seeds, cases = difference_SC.shape
    squares = _mean_squares(difference_SC)
    mean, (error, degrees) = float(difference_SC.mean()), map(float, _error(squares, seeds, cases))
    reach = float(stdtrit(degrees, 1 - LEVEL / 2)) * error
    return Difference(
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        p=2 * float(stdtr(degrees, -abs(mean) / error)) if error else float(mean == 0),
        detectable=reach + float(stdtrit(degrees, POWER)) * error,
        limited_by="seeds" if squares[0] >= squares[1] else "test cases",
        each_seed=tuple(float(one) for one in difference_SC.mean(axis=1)),
    )


def share_of(first_SC: Array, second_SC: Array) -> tuple[float, float, float]:
    """The mean of a difference as a share of another's, with its 95 % interval by Fieller (J. R. Stat. Soc. B 16:175).

    The interval has all shares r from -5 to 5 for which ``first - r * second`` does not differ from 0.
    """
    shares = np.linspace(-5, 5, 2001)
    rest_RSC = first_SC - shares[:, None, None] * second_SC
    error, degrees = _error(_mean_squares(rest_RSC), *first_SC.shape)
    held = shares[np.abs(rest_RSC.mean(axis=(1, 2))) <= stdtrit(degrees, 1 - LEVEL / 2) * error]
    mean = float(first_SC.mean() / second_SC.mean())
    return mean, float(min(held, default=mean)), float(max(held, default=mean))


def detectable_gain(differences_KSC: Array, lead: float, family: int) -> float:
    """Smallest true gain over scratch that gets the verdict *helps* in four of five runs like this one.

    Runs are simulated with the covariances, over seeds, cases and the rest, of the differences that were found.
    Permuted weights are as good as scratch there, and the other weights of the family have no effect.

    Args:
        differences_KSC: weights less scratch, less permuted, less the floor; and scratch again less scratch.
        lead: of scratch over the floor.
        family: number of weights under Holm's correction.
    """
    kinds, seeds, cases = differences_KSC.shape
    rows = differences_KSC.mean(axis=2, keepdims=True) - (mean := differences_KSC.mean(axis=(1, 2), keepdims=True))
    columns = differences_KSC.mean(axis=1, keepdims=True) - mean
    rest = (differences_KSC - rows - columns - mean).reshape(kinds, -1)
    of_rest = rest @ rest.T / ((seeds - 1) * max(cases - 1, 1))
    of_seeds = rows[:, :, 0] @ rows[:, :, 0].T / (seeds - 1) - of_rest / cases
    of_cases = columns[:, 0] @ columns[:, 0].T / max(cases - 1, 1) - of_rest / seeds
    rng = np.random.default_rng(0)
    drawn_NKSC: Array = np.zeros((SIMULATED, kinds, seeds, cases))
    for shape, covariance in (((seeds, 1), of_seeds), ((1, cases), of_cases), ((seeds, cases), of_rest)):
        drawn_NKSC += np.moveaxis(rng.standard_normal((SIMULATED, *shape, kinds)) @ _root(covariance), -1, 1)
    error, degrees = _error(_mean_squares(drawn_NKSC), seeds, cases)
    found = drawn_NKSC.mean(axis=(2, 3))
    levels = np.array([LEVEL / family, LEVEL, LEVEL, LEVEL])
    reach = stdtrit(degrees, 1 - levels / 2) * error
    needed = (reach - found)[:, :3] - np.array([0, 0, lead])
    control_holds = np.abs(found[:, 3]) <= reach[:, 3]
    return float(np.quantile(np.where(control_holds, needed.max(axis=1), np.inf), POWER, method="higher"))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scand. J. Statist. 6:65, 1979): each below the level is significant among all."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values, np.float64)[order] * factors), 1.0)
    return [float(one) for one in adjusted]


def _mean_squares(difference_SC: Array) -> tuple[Array, Array, Array]:
    """Mean squares of seeds, cases and the rest, over the last two axes; a single case has none but that of seeds."""
    seeds, cases = difference_SC.shape[-2:]
    rows, columns = difference_SC.mean(axis=-1, keepdims=True), difference_SC.mean(axis=-2, keepdims=True)
    by_seed = cases * rows.var(axis=(-2, -1), ddof=1)
    if cases < 2:
        return by_seed, 0 * by_seed, 0 * by_seed
    rest = difference_SC - rows - columns + difference_SC.mean(axis=(-2, -1), keepdims=True)
    by_case = seeds * columns.var(axis=(-2, -1), ddof=1)
    return by_seed, by_case, (rest**2).sum(axis=(-2, -1)) / ((seeds - 1) * (cases - 1))


def _error(squares: tuple[npt.ArrayLike, ...], seeds: int, cases: int) -> tuple[Array, Array]:
    """Standard error of the mean, at least that of each effect alone, and Satterthwaite's degrees of freedom."""
    by_seed, by_case, rest = map(np.asarray, squares)
    total = np.maximum(by_seed + by_case - rest, np.maximum(by_seed, by_case))
    is_sum = total > np.maximum(by_seed, by_case)
    parts = by_seed**2 / (seeds - 1) + by_case**2 / max(cases - 1, 1) + rest**2 / max((seeds - 1) * (cases - 1), 1)
    alone = np.where(by_seed >= by_case, seeds - 1, cases - 1)
    degrees = np.where(is_sum, total**2 / np.where(parts > 0, parts, 1), alone)
    return np.sqrt(total / (seeds * cases)), degrees


def _root(covariance_KK: Array) -> Array:
    """A root R of a covariance with R.T @ R; what is negative in it, as estimates may be, counts as 0."""
    values, vectors = np.linalg.eigh(covariance_KK)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0))).T
    return root


def verdict(
    against_scratch: Difference, adjusted_p: float, against_permuted: Difference, against_floor: Difference
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
