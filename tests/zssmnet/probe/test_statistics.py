"""Intervals that hold, corrections that are known, verdicts that follow from them."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from zssmnet.probe.statistics import Difference, holm, paired_difference, verdict


def test_with_one_case_it_is_the_paired_t_test() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 6, 1))
    found, expected = paired_difference(first, second), ttest_1samp((first - second)[:, 0], 0)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_seeds_and_cases_are_two_crossed_random_effects() -> None:
    """Worked out by hand: seed means 4, 7, 11 with variance 37/3; case means 16/3, 28/3 with variance 8, of which the
    interaction, with mean square 2, makes 2/3. Student's distribution with two degrees of freedom has a closed form."""
    found = paired_difference([[3, 7], [7, 9], [9, 15]], np.ones((3, 2)))
    error = math.sqrt(37 / 3 / 3 + (8 - 2 / 3) / 2)

    def student(probability: float) -> float:
        return (2 * probability - 1) * math.sqrt(1 / (2 * probability * (1 - probability)))

    assert found.each_seed == (4, 7, 11)
    assert found.mean == pytest.approx(22 / 3)
    assert found.low == pytest.approx(22 / 3 - student(0.975) * error)
    assert found.high == pytest.approx(22 / 3 + student(0.975) * error)
    assert found.p == pytest.approx(1 - found.mean / error / math.sqrt(2 + (found.mean / error) ** 2))
    assert found.detectable == pytest.approx((student(0.975) + student(0.8)) * error)
    assert found.seeds_for_half == 8  # 7.44 of 7.48; with 7 seeds 7.81
    assert not found.excludes_zero


def test_what_varies_by_the_interaction_alone_has_no_variance_of_cases_and_none_below_zero() -> None:
    found = paired_difference([[1, 0], [0, 1]], np.zeros((2, 2)))
    assert (found.mean, found.low, found.high, found.p, found.detectable) == (0.5, 0.5, 0.5, 0, 0)
    assert found.excludes_zero
    assert paired_difference(np.zeros((2, 2)), np.zeros((2, 2))).p == 1


@pytest.mark.parametrize(("low", "high", "excludes"), [(0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.3, False)])
def test_whether_an_interval_excludes_zero(low: float, high: float, excludes: bool) -> None:
    found = Difference((low + high) / 2, low, high, 0.5, 0.1, None, ())
    assert found.excludes_zero == excludes


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Seeds and cases both vary at random, the cases more than the seeds do."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(400):
        noise = rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 16)) + rng.normal(size=(5, 16))
        found = paired_difference(0.3 + noise, np.zeros((5, 16)))
        held.append(found.low <= 0.3 <= found.high)
    assert 0.93 < np.mean(held) < 0.995


def test_intervals_hold_the_truth_though_some_seeds_have_learnt_nothing() -> None:
    """Arms whose seeds collapse now and then differ by 0 on average, and by lumps in single seeds."""
    rng = np.random.default_rng(6)
    held = []
    for _ in range(400):
        arms = 0.3 * rng.random((2, 5, 16)) * (rng.random((2, 5, 1)) > 0.3)
        found = paired_difference(*arms)
        held.append(found.low <= 0 <= found.high)
    assert 0.92 < np.mean(held) < 0.995


def test_a_difference_as_large_as_could_be_shown_is_shown_four_times_in_five() -> None:
    rng = np.random.default_rng(2)
    detectable = np.mean([paired_difference(rng.normal(size=(8, 1)), np.zeros((8, 1))).detectable for _ in range(200)])
    shown = [paired_difference(detectable + rng.normal(size=(8, 1)), np.zeros((8, 1))).low > 0 for _ in range(400)]
    assert 0.7 < np.mean(shown) < 0.9


def test_seeds_for_half_of_it_show_half_of_it() -> None:
    difference = np.random.default_rng(3).normal(size=(5, 1))
    found = paired_difference(difference, np.zeros((5, 1)))
    assert found.seeds_for_half is not None and 10 < found.seeds_for_half < 25


def test_where_cases_decide_more_seeds_do_not_help() -> None:
    by_case = np.random.default_rng(4).normal(size=(1, 16)) + 1e-3 * np.random.default_rng(5).normal(size=(5, 16))
    assert paired_difference(by_case, np.zeros((5, 16))).seeds_for_half is None


def test_one_seed_makes_no_interval() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        paired_difference(np.ones((1, 3)), np.zeros((1, 3)))


def test_holm_against_values_worked_out_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def difference(mean: float, reach: float = 0.01) -> Difference:
    return Difference(mean, mean - reach, mean + reach, 0.001, 2 * reach, 20, (mean,) * 3)


@pytest.mark.parametrize(
    ("scratch", "p", "permuted", "floor", "word", "reason"),
    [
        (0.1, 0.01, 0.1, 0.1, "helps", "better than scratch"),
        (-0.1, 0.01, 0.1, 0.1, "harms", "scratch is better"),
        (-0.1, 0.2, 0.1, 0.1, "not shown", "no better than scratch"),
        (0.1, 0.05, 0.1, 0.1, "not shown", "no better than scratch"),
        (0.1, 0.2, 0.1, 0.1, "not shown", "no better than scratch"),
        (0.1, 0.01, 0.0, 0.1, "not shown", "no better than the same values permuted"),
        (0.1, 0.01, 0.1, 0.005, "not shown", "no better than the best arm without a network"),
    ],
)
def test_verdicts(scratch: float, p: float, permuted: float, floor: float, word: str, reason: str) -> None:
    found = verdict(difference(scratch), p, difference(permuted), difference(floor))
    assert found[0] == word
    assert reason in found[1]
