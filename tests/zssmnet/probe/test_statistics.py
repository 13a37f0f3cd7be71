"""Intervals that hold, corrections that are known, verdicts that follow from them."""

import math

import numpy as np
import pytest
import scipy.stats

from zssmnet.probe.statistics import Difference, detectable_gain, holm, paired_difference, share_of, verdict


def test_with_one_case_it_is_the_paired_t_test() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 6, 1))
    found, expected = paired_difference(first, second), scipy.stats.ttest_1samp((first - second)[:, 0], 0)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_seeds_and_cases_are_two_crossed_random_effects() -> None:
    """Worked out by hand: seed means 4, 7, 11 with variance 37/3; case means 16/3, 28/3 with variance 8, of which the
    interaction, with mean square 2, makes 2/3. The mean squares 74/3, 24 and 2 have 2, 1 and 2 degrees of freedom."""
    found = paired_difference([[3, 7], [7, 9], [9, 15]], np.ones((3, 2)))
    error = math.sqrt(37 / 3 / 3 + (8 - 2 / 3) / 2)
    student = scipy.stats.t((140 / 3) ** 2 / ((74 / 3) ** 2 / 2 + 24**2 + 2**2 / 2))
    assert found.each_seed == (4, 7, 11)
    assert found.mean == pytest.approx(22 / 3)
    assert found.low == pytest.approx(22 / 3 - student.ppf(0.975) * error)
    assert found.high == pytest.approx(22 / 3 + student.ppf(0.975) * error)
    assert found.p == pytest.approx(2 * student.sf(found.mean / error))
    assert found.detectable == pytest.approx((student.ppf(0.975) + student.ppf(0.8)) * error)
    assert not found.excludes_zero


def test_what_varies_by_the_interaction_alone_has_no_variance_of_cases_and_none_below_zero() -> None:
    found = paired_difference([[1, 0], [0, 1]], np.zeros((2, 2)))
    assert (found.mean, found.low, found.high, found.p, found.detectable) == (0.5, 0.5, 0.5, 0, 0)
    assert found.excludes_zero
    assert paired_difference(np.zeros((2, 2)), np.zeros((2, 2))).p == 1


@pytest.mark.parametrize(("low", "high", "excludes"), [(0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.3, False)])
def test_whether_an_interval_excludes_zero(low: float, high: float, excludes: bool) -> None:
    found = Difference((low + high) / 2, low, high, 0.5, 0.1, "seeds", ())
    assert found.excludes_zero == excludes


def test_where_cases_decide_false_alarms_are_neither_more_nor_fewer_than_five_in_a_hundred() -> None:
    """5 seeds, 20 cases: 1.6 % were with one degree of freedom less than seeds, by intervals 1.3 times as wide."""
    rng, alarms, narrower = np.random.default_rng(1), [], []
    for _ in range(1000):
        noise = 0.03 * rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(1, 20)) + 0.1 * rng.normal(size=(5, 20))
        found = paired_difference(0.3 + noise, np.zeros((5, 20)))
        alarms.append(not found.low <= 0.3 <= found.high)
        error = (found.high - found.mean) / 0.058
        narrower.append(error)
    assert 0.03 < np.mean(alarms) < 0.06
    assert np.median(narrower) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("trainings", "alarms"), [(1, (0.35, 0.65)), (5, (0.02, 0.07))])
def test_claims_about_a_recipe_hold_with_one_training_a_seed_alone(trainings: int, alarms: tuple[float, float]) -> None:
    """Trainings of a recipe differ by 0.05, seeds by 0.03: why as many files as neither one nor the seeds are refused,
    and one file is no recipe."""
    rng, found = np.random.default_rng(2), []
    for _ in range(300):
        recipe = 0.05 * rng.normal(size=(trainings, 1))[np.arange(5) % trainings]
        noise = recipe + 0.03 * rng.normal(size=(5, 1)) + 0.05 * rng.normal(size=(5, 20))
        found.append(paired_difference(noise, np.zeros((5, 20))).excludes_zero)
    assert alarms[0] < np.mean(found) < alarms[1]


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


def simulated_run(rng: np.random.Generator, arms: int, gain: float, collapse: float) -> tuple[bool, np.ndarray, float]:
    """Whether the first of some weights with a true gain helps; its differences, see `detectable_gain`; the lead."""
    y_ASC = 0.7 + 0.02 * rng.normal(size=(2 + 2 * arms, 5, 1)) + 0.05 * rng.normal(size=(2 + 2 * arms, 1, 32))
    y_ASC += 0.06 * rng.normal(size=y_ASC.shape) - 0.3 * (rng.random((2 + 2 * arms, 5, 1)) < collapse)
    y_ASC[2] += gain
    floor_SC = 0.5 + 0.05 * rng.normal(size=(5, 32))
    scratch_SC = y_ASC[:2].mean(axis=0)
    differences = np.stack([y_ASC[2] - other for other in (scratch_SC, y_ASC[2 + arms], floor_SC)])
    against = [paired_difference(one, 0 * one) for one in differences]
    p = holm([paired_difference(y_ASC[2 + number], scratch_SC).p for number in range(arms)])[0]
    again = paired_difference(y_ASC[1], y_ASC[0])
    helps = verdict(against[0], p, *against[1:])[0] == "helps" and not again.excludes_zero
    return helps, np.stack([*differences, y_ASC[1] - y_ASC[0]]), float((scratch_SC - floor_SC).mean())


@pytest.mark.parametrize(("arms", "collapse"), [(1, 0.0), (3, 0.15)])
def test_weights_that_gain_what_could_be_shown_help_four_times_in_five(arms: int, collapse: float) -> None:
    """Of the whole verdict: Holm's correction, permuted, floor and control included."""
    rng = np.random.default_rng(4)
    runs = [simulated_run(rng, arms, 0.0, collapse) for _ in range(30)]
    gain = float(np.mean([detectable_gain(found, lead, arms) for _, found, lead in runs]))
    helps = np.mean([simulated_run(rng, arms, gain, collapse)[0] for _ in range(150)])
    assert 0.7 < helps < 0.9


def test_the_share_of_a_gain_has_an_interval_that_holds_the_truth() -> None:
    rng, held = np.random.default_rng(7), []
    for _ in range(200):
        control, recipe = (
            gain + 0.02 * rng.normal(size=(5, 1)) + 0.03 * rng.normal(size=(1, 32)) + 0.05 * rng.normal(size=(5, 32))
            for gain in (0.1, 0.03)
        )
        share, low, high = share_of(recipe, control)
        held.append(low <= 0.3 <= high and low <= share <= high)
    assert 0.91 < np.mean(held) < 0.98


def test_what_varies_more_is_named() -> None:
    rng = np.random.default_rng(4)
    by_case = rng.normal(size=(1, 16)) + 1e-3 * rng.normal(size=(5, 16))
    assert paired_difference(by_case, np.zeros((5, 16))).limited_by == "test cases"
    assert paired_difference(3 * rng.normal(size=(5, 1)) + by_case, np.zeros((5, 16))).limited_by == "seeds"


def test_holm_against_values_worked_out_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def difference(mean: float, reach: float = 0.01) -> Difference:
    return Difference(mean, mean - reach, mean + reach, 0.001, 2 * reach, "seeds", (mean,) * 3)


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
