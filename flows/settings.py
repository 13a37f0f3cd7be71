"""The configuration of a command: defaults, then the TOML file of --config, then the flags."""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig
from zssmnet.errors import ConfigError


class Settings(BaseModel):
    """All settings; the tables of the TOML file have these names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preparation: PreparationConfig = Field(default=PreparationConfig(), description="Resampling and cropping")
    cubes: CubesConfig = Field(default=CubesConfig(), description="Cutting of cubes")
    pretraining: PretrainConfig = Field(default=PretrainConfig(), description="Network, corruption, training")


FLAGS: dict[str, tuple[str, ...]] = {
    "scale": ("cubes.cubes_per_case",),
    "dtype": ("cubes.dtype",),
    "epochs": ("pretraining.training.epochs",),
    "patience": ("pretraining.training.patience",),
    "batch_size": ("pretraining.training.batch_size",),
    "learning_rate": ("pretraining.training.learning_rate",),
    "channels": ("pretraining.network.channels",),
    "merge": ("pretraining.network.merge",),
    "recipe": ("pretraining.corruption.recipe",),
    "device": ("pretraining.training.device",),
    "processes": ("pretraining.training.processes",),
    "precision": ("pretraining.training.precision",),
    "compile": ("pretraining.training.compile",),
    "seed": ("cubes.seed", "pretraining.training.seed"),
}
"""The settings that a flag stands for."""


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that a command line asks for.

    Raises:
        ConfigError: an unreadable file, an unknown setting or a value out of range.
    """
    file = getattr(options, "config", None)
    values = _read_toml(Path(file)) if file else {}
    _validated(values, f"{file}: ")  # alone: flags neither hide its faults nor are theirs blamed on it
    for flag, settings in FLAGS.items():
        if (value := getattr(options, flag, None)) is not None:
            for setting in settings:
                _put(values, setting, value)
    return _validated(values, "")


def _validated(values: dict[str, Any], source: str) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        reason = "no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigError(f"{source}{name} = {first['input']!r}: {reason.removeprefix('Value error, ')}") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error


def _put(values: dict[str, Any], setting: str, value: Any) -> None:
    *tables, name = setting.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[name] = value
