"""The probe's controls: what cannot differ does not, and an effect that was planted is found."""

from pathlib import Path

import pytest
import torch

from tests.zssmnet.probe.examples import as_read, made_cases, read_arms, save_weights, small_probe
from zssmnet.config import NetworkConfig, ProbeConfig
from zssmnet.probe.arms import Arm, build_network
from zssmnet.probe.run import compare_arms
from zssmnet.probe.trials import fine_tune
from zssmnet.storage import LocalStorage

CASES = as_read(made_cases(40))
CONFIG = small_probe(labelled=8, seeds=5, steps=30, test_cases=10, tuning_cases=5, learning_rates=(0.01,))


def taught_weights(file: Path, config: ProbeConfig, shuffled: bool = False) -> str:
    """Weights that have learnt the probe's own task from other cases: from their labels, or from those of others."""
    cases = made_cases(60)[40:]
    if shuffled:
        labels = [case.label_ZYX for case in cases]
        cases = [
            case.__class__(case.id, case.input_CZYX, label, case.gland_ZYX)
            for case, label in zip(cases, labels[7:] + labels[:7], strict=True)
        ]
    model = build_network(
        Arm("scratch", "scratch"), 99, 2, NetworkConfig(channels=(8, 8, 8, 8, 8)), torch.device("cpu")
    )
    fine_tune(model, cases, (), 0.01, 99, config.model_copy(update={"steps": 300}))
    torch.save({"state_dict": model.state_dict()}, file)
    return str(file)


@pytest.mark.long
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_planted_effect_is_found_and_shuffled_targets_do_not_help(tmp_path: Path, shuffled: bool) -> None:
    weights = taught_weights(tmp_path / "taught.model", CONFIG, shuffled)
    result = compare_arms(CASES, read_arms(weights), LocalStorage(tmp_path / "out"), CONFIG)
    assert not result.control.difference.excludes_zero
    gain = next(one for one in result.comparisons if one.second == "scratch").difference
    assert (gain.low > 0) == (not shuffled), gain


def test_new_weights_neither_help_nor_harm_and_the_same_ones_twice_do_not_differ_at_all(tmp_path: Path) -> None:
    """Pairing is exact: same cases, windows, order, flips and heads. New weights do not help whatever the control says:
    one in twenty fails by chance, and which one the rounding of a machine decides."""
    weights = read_arms(save_weights(tmp_path / "a.model", 7), save_weights(tmp_path / "b.model", 7))
    config = CONFIG.model_copy(update={"steps": 1, "seeds": 3})
    result = compare_arms(CASES, weights, LocalStorage(tmp_path / "out"), config)
    assert not any(
        one.difference.low > 0 for one in result.comparisons if one.second == "scratch" and one.first in "ab"
    )
    between = next(one for one in result.comparisons if (one.first, one.second) == ("a", "b"))
    assert (between.difference.mean, between.difference.low, between.difference.high) == (0, 0, 0)
