"""Settings that cannot be: the library's error for whoever writes them, pydantic's for whoever validates them."""

import copy
import pickle
from collections.abc import Callable

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

import zssmnet
from zssmnet.config import ChallengerConfig, ProbeConfig, TrainingConfig
from zssmnet.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingConfig(epochs=0), "TrainingConfig: epochs = 0: Input should be greater than or equal to 1"),
        (
            lambda: zssmnet.PretrainConfig(training={"epochs": 0}),  # type: ignore[arg-type]
            "PretrainConfig: training.epochs = 0: Input should be greater than or equal to 1",
        ),
        (lambda: zssmnet.CubesConfig(sizes=1), "CubesConfig: sizes = 1: no such setting"),  # type: ignore[call-arg]
        (lambda: zssmnet.CubesConfig(size=(0, 1, 1)), "CubesConfig: size must be at least 1 voxel on each axis, not"),
        (
            lambda: zssmnet.PreparationConfig(spacing_mm=(3.0, 0.5, 0.5)),
            "PreparationConfig: spacing_mm is x, y, z, the slices' distance last, not (3.0, 0.5, 0.5)",
        ),
        (
            lambda: zssmnet.CubesConfig(size=(16, 64, 64)),
            "CubesConfig: size is x, y, z, the number of slices last, not",
        ),
        (lambda: ProbeConfig(tuning_cases=0), "ProbeConfig: without tuning_cases"),
        (
            lambda: zssmnet.Corruption("mask"),  # type: ignore[arg-type]
            "CorruptionConfig: recipe = 'mask': Input should be 'reference', 'per-channel' or 'masked'",
        ),
        (lambda: zssmnet.Corruption(3), "CorruptionConfig: recipe = 3: Input should be"),  # type: ignore[arg-type]
    ],
)
def test_written_by_a_user_they_are_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


class Parameters(BaseModel):
    """As Prefect validates a flow's parameters."""

    config: ChallengerConfig


@pytest.mark.parametrize(
    ("validate", "place"),
    [
        (ChallengerConfig.model_validate, ("training", "epochs")),
        (TypeAdapter(ChallengerConfig).validate_python, ("training", "epochs")),
        (lambda values: Parameters(config=values), ("config", "training", "epochs")),
    ],
)
def test_where_pydantic_validates_its_own_error_names_the_place(validate: Callable[[object], object], place) -> None:
    with pytest.raises(ValidationError) as caught:
        validate({"training": {"epochs": 0}})
    assert caught.value.errors()[0]["loc"] == place


def test_configurations_can_be_copied_and_sent() -> None:
    config = zssmnet.PretrainConfig(training=TrainingConfig(epochs=3))
    assert config == pickle.loads(pickle.dumps(config)) == copy.deepcopy(config)  # noqa: S301
    assert config == zssmnet.PretrainConfig.model_validate_json(config.model_dump_json())


def test_a_preset_gives_defaults_and_what_is_set_beside_it_counts() -> None:
    assert TrainingConfig(preset="published") == TrainingConfig()
    adamw = TrainingConfig(preset="adamw", epochs=7)
    assert (adamw.optimizer, adamw.schedule, adamw.calibrated_head, adamw.epochs) == ("adamw", "cosine", True, 7)
    plain = TrainingConfig(preset="adamw", calibrated_head=False)
    assert not TrainingConfig.model_validate_json(plain.model_dump_json(), strict=True).calibrated_head
    challenger = ChallengerConfig(training={"preset": "adamw"}).training  # type: ignore[arg-type]
    assert (challenger.learning_rate, challenger.epochs, challenger.optimizer) == (0.0001, 100, "adamw")


def test_a_preset_that_there_is_not_is_one_line() -> None:
    with pytest.raises(ConfigError, match="TrainingConfig: preset = 'best': Input should be 'published' or 'adamw'"):
        TrainingConfig(preset="best")  # type: ignore[arg-type]
