"""What a notebook user meets where settings cannot be used."""

from typing import Any

import pytest
from pydantic import ValidationError

from zssmnet.config import CubesConfig, PretrainConfig, ProbeConfig
from zssmnet.errors import ConfigError


def test_settings_that_cannot_be_used_are_one_line_that_names_them() -> None:
    with pytest.raises(ConfigError, match=r"^training\.epochs = 0: Input should be greater than or equal to 1$"):
        PretrainConfig(training={"epochs": 0})
    unknown: dict[str, Any] = {"cube_size": (1, 1, 1)}
    with pytest.raises(ConfigError, match=r"^cube_size = \(1, 1, 1\): no such setting$"):
        CubesConfig(**unknown)
    with pytest.raises(ConfigError, match=r"^size must be at least 1 voxel on each axis, not \(0, 1, 1\)$"):
        CubesConfig(size=(0, 1, 1))


def test_what_validates_with_pydantic_gets_pydantic_s_error() -> None:
    with pytest.raises(ValidationError):
        PretrainConfig.model_validate({"training": {"epochs": 0}})


@pytest.mark.parametrize(
    "changes",
    [
        {"labelled": (4, 2)},
        {"labelled": (2, 2)},
        {"looks": (0, 1)},
        {"tuning_cases": 0},
        {"seeds": 2},
    ],
)
def test_a_probe_s_numbers_rise_and_rates_are_tuned_on_something(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ProbeConfig(**changes)
