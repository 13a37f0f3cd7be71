"""Settings of a probe that cannot be used."""

from typing import Any

import pytest

from zssmnet.config import ProbeConfig
from zssmnet.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labelled": 0}, "labelled = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"tuning_cases": 0}, "without tuning_cases no learning rate can be chosen"),
        ({"seeds": 2}, "seeds = 2"),
        ({"learning_rates": (0.01, 0.0)}, "learning_rates"),
        ({"learning_rates": (-0.1,)}, "learning_rates"),
        ({"head_factors": (float("nan"),)}, "head_factors"),
    ],
)
def test_numbers_rise_and_rates_are_tuned_on_something(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProbeConfig(**changes)
    assert ProbeConfig(tuning_cases=0, learning_rates=(0.01,), head_factors=(1.0,)).learning_rates == (0.01,)
