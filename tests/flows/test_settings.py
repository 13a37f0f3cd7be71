import argparse
from pathlib import Path
from typing import Any

import pytest

from flows.settings import Settings, flags_of, retraining_of, settings_of
from zssmnet.config import CubesConfig
from zssmnet.errors import ConfigError

FLAGS = {
    flag: tuple(one.name for one in flags_of(Settings) if one.flag.name == flag)
    for flag in {one.flag.name for one in flags_of(Settings)}
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def settings(text: str | None = None, file: Path | None = None, **flags: Any) -> Settings:
    if text is not None and file is not None:
        file.write_text(text, encoding="utf-8")
    return settings_of(argparse.Namespace(config=str(file) if file else None, command="run", **flags))


def refusal(text: str | None = None, file: Path | None = None, **flags: Any) -> str:
    """The message with which settings are refused: one line."""
    with pytest.raises(ConfigError) as caught:
        settings(text, file, **flags)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FULL = """
[preparation]
margin_mm = 20
spacing_mm = [0.5, 0.5, 3.6]

[cubes]
cubes_per_case = 3
size = [32, 32, 8]
dtype = "float32"
seed = 4

[pretraining.network]
channels = [4, 6, 8, 10, 12]
merge = "cat"

[pretraining.corruption]
recipe = "per-channel"
shuffling = { windows = 100 }

[pretraining.training]
epochs = 7
learning_rate = 0.01
"""


class TestSources:
    def test_defaults_are_the_published_methods(self) -> None:
        assert settings() == Settings() == settings("", None)
        assert settings_of(argparse.Namespace()) == Settings()

    def test_a_file_sets_what_it_names_and_nothing_else(self, file: Path) -> None:
        found = settings(FULL, file)
        assert (found.preparation.margin_mm, found.preparation.spacing_mm) == (20, (0.5, 0.5, 3.6))
        assert found.cubes.model_dump() == {"cubes_per_case": 3, "size": (32, 32, 8), "dtype": "float32", "seed": 4} | {
            "intensity_scaling": "maximum"
        }
        assert found.pretraining.network.model_dump() == {"channels": (4, 6, 8, 10, 12), "merge": "cat"}
        assert found.pretraining.corruption.shuffling.windows == 100
        default = Settings().pretraining
        assert found.pretraining.corruption.painting == default.corruption.painting
        changed = {"epochs": 7, "learning_rate": 0.01}
        assert found.pretraining.training == default.training.model_copy(update=changed)

    def test_an_empty_file_changes_nothing(self, file: Path) -> None:
        assert settings("", file) == Settings()

    @pytest.mark.parametrize(
        ("flag", "value", "settings_named"),
        [
            ("scale", 2, ["cubes.cubes_per_case"]),
            ("dtype", "float64", ["cubes.dtype"]),
            ("intensity_scaling", "percentile", ["cubes.intensity_scaling"]),
            ("epochs", 3, ["pretraining.training.epochs"]),
            ("patience", 3, ["pretraining.training.patience"]),
            ("batch_size", 3, ["pretraining.training.batch_size"]),
            ("learning_rate", 0.5, ["pretraining.training.learning_rate"]),
            ("loss_weighting", "variance", ["pretraining.training.loss_weighting"]),
            ("channels", (1, 2, 3, 4, 5), ["pretraining.network.channels"]),
            ("merge", "sum", ["pretraining.network.merge"]),
            ("recipe", "reference", ["pretraining.corruption.recipe"]),
            ("device", "cpu", ["pretraining.training.device"]),
            ("processes", 3, ["pretraining.training.processes"]),
            ("precision", "bfloat16", ["pretraining.training.precision"]),
            ("compile", "default", ["pretraining.training.compile"]),
            ("seed", 0, ["cubes.seed", "pretraining.training.seed"]),
            ("accumulate", 3, ["pretraining.training.accumulate"]),
            ("deterministic", True, ["pretraining.training.deterministic"]),
        ],
    )
    def test_a_flag_takes_precedence_over_the_file(
        self, flag: str, value: Any, settings_named: list[str], file: Path
    ) -> None:
        before, after = settings(FULL, file), settings(FULL, file, **{flag: value})
        for name in settings_named:
            found: Any = after
            for part in name.split("."):
                found = getattr(found, part)
            assert found == value
        assert FLAGS[flag] == tuple(settings_named)
        changed = {name for name, old in flat(before.model_dump()).items() if flat(after.model_dump())[name] != old}
        assert changed <= set(settings_named)

    def test_a_preset_changes_what_neither_file_nor_flags_name(self, file: Path) -> None:
        training = settings(FULL, file, preset="adamw", patience=4).pretraining.training
        assert (training.preset, training.optimizer, training.calibrated_head) == ("adamw", "adamw", True)
        assert (training.epochs, training.learning_rate, training.patience) == (7, 0.01, 4)

    def test_every_flag_is_tested_above(self) -> None:
        assert len(FLAGS) == 19

    def test_flags_not_given_leave_the_file_alone(self, file: Path) -> None:
        assert settings(FULL, file, **dict.fromkeys(FLAGS)) == settings(FULL, file)

    def test_one_seed_is_for_everything(self) -> None:
        found = settings(seed=9)
        assert (found.cubes.seed, found.pretraining.training.seed) == (9, 9)
        assert found.pretraining.training.validation_seed == 0


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full names."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[cubes]\nscale = 3", "cubes.scale = 3: no such setting"),
            ("[training]\nepochs = 3", "training = {'epochs': 3}: no such setting"),
            ("epochs = 3", "epochs = 3: no such setting"),
            (
                "[pretraining.training]\nepochs = 'many'",
                "pretraining.training.epochs = 'many': Input should be a valid",
            ),
            (
                "[pretraining.training]\nepochs = 2.5",
                "pretraining.training.epochs = 2.5: Input should be a valid integer",
            ),
            ("[pretraining.training]\nepochs = 0", "pretraining.training.epochs = 0: Input should be greater than or "),
            ("[pretraining.training]\nmomentum = 1", "pretraining.training.momentum = 1: Input should be less than 1"),
            (
                "[pretraining.training]\nlearning_rate = nan",
                "pretraining.training.learning_rate = nan: Input should be",
            ),
            (
                "[pretraining.training]\nlearning_rate = inf",
                "pretraining.training.learning_rate = inf: Input should be",
            ),
            ("[pretraining.training]\ndevice = 'tpu'", "pretraining.training.device = 'tpu': Input should be 'auto', "),
            ("[pretraining.network]\nchannels = [1, 2]", "pretraining.network.channels.2 = [1, 2]: Field required"),
            (
                "[pretraining.network]\nchannels = 32",
                "pretraining.network.channels = 32: Input should be a valid tuple",
            ),
            ("[pretraining]\nnetwork = 3", "pretraining.network = 3: Input should be a valid dictionary"),
            ("cubes = [1]", "cubes = [1]: Input should be a valid dictionary"),
            (
                "[cubes]\nsize = [64, 64, 0]",
                "cubes = {'size': [64, 64, 0]}: size must be at least 1 voxel on each axis",
            ),
            ("[cubes]\nseed = 1979-05-27", "cubes.seed = datetime.date(1979, 5, 27): Input should be a valid integer"),
            (
                "[preparation]\nspacing_mm = [0.5, 0.5, -3]",
                "preparation = {'spacing_mm': [0.5, 0.5, -3]}: spacing_mm mu",
            ),
        ],
    )
    def test_settings_in_the_file(self, text: str, message: str, file: Path) -> None:
        assert refusal(text, file).startswith(f"{file}: {message}")

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ({"epochs": 0}, "pretraining.training.epochs = 0: Input should be greater than or equal to 1"),
            ({"scale": -1}, "cubes.cubes_per_case = -1: Input should be greater than or equal to 1"),
            ({"seed": -1}, "cubes.seed = -1: Input should be greater than or equal to 0"),
            ({"channels": [1, 2, 3, 4, 5, 6]}, "pretraining.network.channels = [1, 2, 3, 4, 5, 6]: Tuple should have"),
            ({"channels": [0, 2, 3, 4, 5]}, "pretraining.network = {'channels': [0, 2, 3, 4, 5]"),
        ],
    )
    def test_flags_are_not_blamed_on_the_file(self, flags: dict[str, Any], message: str, file: Path) -> None:
        assert refusal(**flags).startswith(message)
        assert refusal(FULL, file, **flags).startswith(message.split(" = {")[0])

    def test_a_fault_is_that_of_the_command_s_own_settings(self) -> None:
        wanted = argparse.Namespace(config=None, command="pretrain", seed=-1)
        with pytest.raises(ConfigError, match=r"^pretraining\.training\.seed = -1: "):
            settings_of(wanted, "pretraining")

    def test_a_flag_does_not_hide_what_is_wrong_in_the_file(self, file: Path) -> None:
        assert refusal("[cubes]\ncubes_per_case = 0", file, scale=3).startswith(f"{file}: cubes.cubes_per_case = 0")
        assert refusal("cubes = 5", file, scale=3).startswith(f"{file}: cubes = 5")

    @pytest.mark.parametrize("text", ["[cubes", "a = ", "a = 1\na = 2", "x", "a = " + "[" * 5000])
    def test_no_toml(self, text: str, file: Path) -> None:
        assert refusal(text, file).startswith(f"{file}: not a readable TOML file: ")

    def test_no_text(self, file: Path) -> None:
        file.write_bytes(b"\xff\xfe\x00a")
        assert refusal(file=file).startswith(f"{file}: not a readable TOML file: ")

    def test_no_file(self, file: Path) -> None:
        message = refusal(file=file)
        assert message.startswith(f"{file}: not a readable TOML file: ")
        assert "No such file" in message

    def test_a_folder(self, tmp_path: Path) -> None:
        assert "Is a directory" in refusal(file=tmp_path)


class TestRetraining:
    def test_a_challengers_budget_is_replaced_only_where_something_is_asked_for(self, file: Path) -> None:
        file.write_text("[pretraining.training]\nepochs = 5\n[preparation]\nmargin_mm = 20\n")
        options = argparse.Namespace(config=str(file), patience=3, margin_percent=1.5)
        found, cubes, retraining = retraining_of(options)
        training = retraining.pretraining.training
        assert (training.epochs, training.patience, training.learning_rate) == (5, 3, 0.01)
        assert (retraining.margin_percent, retraining.min_new_cases) == (1.5, 10)
        assert (found.preparation.margin_mm, cubes) == (20, None)

    def test_cubes_are_asked_for_by_the_file(self, file: Path) -> None:
        file.write_text("[cubes]\ncubes_per_case = 2\n")
        assert retraining_of(argparse.Namespace(config=str(file)))[1] == CubesConfig(cubes_per_case=2)
