"""Intervals that hold, corrections that are known, verdicts that follow from them."""

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


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Seeds and cases both vary at random, the cases more than the seeds do."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(400):
        noise = rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 16)) + rng.normal(size=(5, 16))
        found = paired_difference(0.3 + noise, np.zeros((5, 16)))
        held.append(found.low <= 0.3 <= found.high)
    assert np.mean(held) > 0.93


def test_intervals_hold_the_truth_though_some_seeds_have_learnt_nothing() -> None:
    """Arms whose seeds collapse now and then differ by 0 on average, and by lumps in single seeds."""
    rng = np.random.default_rng(6)
    held = []
    for _ in range(400):
        arms = 0.3 * rng.random((2, 5, 16)) * (rng.random((2, 5, 1)) > 0.3)
        found = paired_difference(*arms)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) > 0.92


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
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({}) == {}


def difference(mean: float, reach: float = 0.01) -> Difference:
    return Difference(mean, mean - reach, mean + reach, 0.001, 2 * reach, 20, (mean,) * 3)


@pytest.mark.parametrize(
    ("scratch", "p", "permuted", "floor", "word", "reason"),
    [
        (0.1, 0.01, 0.1, 0.1, "helps", "better than scratch"),
        (-0.1, 0.01, 0.1, 0.1, "harms", "scratch is better"),
        (0.1, 0.2, 0.1, 0.1, "not shown", "no better than scratch"),
        (0.1, 0.01, 0.0, 0.1, "not shown", "no better than the same values permuted"),
        (0.1, 0.01, 0.1, 0.005, "not shown", "no better than what needs no network"),
    ],
)
def test_verdicts(scratch: float, p: float, permuted: float, floor: float, word: str, reason: str) -> None:
    found = verdict(difference(scratch), p, difference(permuted), difference(floor))
    assert found[0] == word
    assert reason in found[1]
