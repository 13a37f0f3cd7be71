"""What a result says of trials whose truth is known: no network is trained."""

import numpy as np
import pytest

from tests.zssmnet.probe.examples import CHANNELS, small_probe
from zssmnet.config import NetworkConfig
from zssmnet.probe.arms import AGAIN, MANY, POSITIVE, SCRATCH, permuted_name
from zssmnet.probe.floor import RIDGE
from zssmnet.probe.result import Picture, ProbedWeights, ProbeResult, judge
from zssmnet.probe.trials import LearningRate, Trial
from zssmnet.report.probe import probe_picture, probe_table

SEEDS, CASES = 5, 32
RATE = LearningRate(body=0.001, head_factor=20)
SLICE = tuple(tuple(int(abs(x - 12) + abs(y - 12) < 8) * (1 + (y < 12)) for x in range(24)) for y in range(24))


def result_of(gains: dict[str, float], seed: int = 0, trainings: int = SEEDS) -> ProbeResult:
    """The result of arms with these true gains over scratch, which is 0.7; seeds, cases and the rest vary."""
    rng = np.random.default_rng(seed)
    arms = {SCRATCH: 0.0, AGAIN: 0.0, MANY: 0.15, RIDGE: -0.3} | gains
    weights = [name for name in gains if name not in (SCRATCH, AGAIN, MANY, RIDGE)]
    arms |= {permuted_name(name): gains.get(permuted_name(name), 0.0) for name in weights if ", " not in name}
    of_cases, trials = 0.7 + 0.1 * rng.normal(size=CASES), list[Trial]()
    for arm, gain in arms.items():
        figures = of_cases + gain + 0.01 * rng.normal(size=(SEEDS, 1)) + 0.02 * rng.normal(size=(1, CASES))
        figures = figures + 0.04 * rng.normal(size=(SEEDS, CASES))
        for number, row in enumerate(figures):
            cases = {f"{case}_1": {"dice": float(one), "surface_mm": 2.0} for case, one in enumerate(row)}
            example = SLICE if number == 0 else None
            trials.append(Trial(arm=arm, labelled=4, seed=number, rate=RATE, cases=cases, example=example))
    probed = [ProbedWeights(name=name, sha256=("",) * trainings) for name in weights if ", " not in name]
    config = small_probe(task="zones", seeds=SEEDS)
    picture = Picture(case="1_1", truth=SLICE, t2w=tuple(tuple(range(0, 240, 10)) for _ in range(24)))
    rates = dict.fromkeys(arms, RATE)
    return judge(trials, rates, probed, NetworkConfig(channels=CHANNELS), config, picture, pool=40)


def test_with_an_open_gate_a_gain_is_given_as_a_share_of_the_controls() -> None:
    result = result_of({POSITIVE: 0.1, "good": 0.05, "none": 0.0})
    assert result.can_tell and all(one.holds for one in result.gate)
    good, none = result.verdicts
    assert (good.verdict, none.verdict) == ("helps", "not shown")
    assert good.share and good.share[1] < 0.5 < good.share[2]
    assert none.share and none.share[1] < 0 < none.share[2]
    assert "of the positive control's gain" in good.sentence
    table = probe_table(result)
    assert "| good |" in table and "| none, permuted |" in table and "0.001, heads x 20" in table
    assert "| < 0.001 |" in table and "| 0.000 |" not in table
    assert probe_picture(result).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("gains", "trainings", "closed"),
    [
        ({RIDGE: 0.0}, 5, "a"),
        ({MANY: 0.01}, 5, "b"),
        ({POSITIVE: 0.0}, 5, "c"),
        ({}, 1, "c"),
        ({AGAIN: 0.1}, 5, "bcd"),
        ({permuted_name(POSITIVE): 0.1}, 5, "cd"),
    ],
)
def test_whatever_closes_the_gate_no_verdict_counts(gains: dict[str, float], trainings: int, closed: str) -> None:
    result = result_of({POSITIVE: 0.1, "good": 0.1} | gains, trainings=trainings)
    failed = [letter for letter, one in zip("abcd", result.gate, strict=True) if not one.holds]
    assert set(failed) <= set(closed) and closed[-1] in failed
    assert result.verdict.startswith(f"this probe cannot tell: ({failed[0]})")
    assert [one.verdict for one in result.verdicts] == ["cannot tell"]
    assert "| good" not in probe_table(result)


def test_without_a_positive_control_the_gate_is_closed() -> None:
    assert "(c) no positive control; give one training a seed" in result_of({"good": 0.1}).verdict


def test_recipes_without_a_gain_are_hardly_ever_said_to_help() -> None:
    """Three of them, and a gate that is open: at most one run in twenty has a false claim."""
    words = [
        {one.verdict for one in result_of({POSITIVE: 0.1, "x": 0, "y": 0, "z": 0}, seed).verdicts} for seed in range(10)
    ]
    assert sum("helps" in one for one in words) <= 1
    assert sum("cannot tell" in one for one in words) <= 2
