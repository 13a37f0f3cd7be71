"""The settings of a command: defaults, then the TOML file of --config, then the flags that config.py's fields name."""

import argparse
import json
import tomllib
from collections.abc import Iterable, Iterator
from functools import partial, reduce
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from zssmnet.config import CubesConfig, Flag, PreparationConfig, PretrainConfig, RetrainingConfig, fault_of
from zssmnet.errors import ConfigError
from zssmnet.storage.address import S3, Address, checked_address, local_path

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Settings(BaseModel):
    """All settings; the tables of the TOML file have these names."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    preparation: PreparationConfig = Field(default=PreparationConfig(), description="Resampling and cropping")
    cubes: CubesConfig = Field(default=CubesConfig(), description="Cutting of cubes")
    pretraining: PretrainConfig = Field(default=PretrainConfig(), description="Network, corruption, training")


class Setting(NamedTuple):
    """A field with a flag: its full name, the field, the flag, its default."""

    name: str
    field: FieldInfo
    flag: Flag
    default: Any


def flags_of(config: type[BaseModel], start: BaseModel | None = None, prefix: str = "") -> Iterator[Setting]:
    """The fields of a configuration that have a flag, those of its parts included.

    Args:
        start: the values that are the defaults, if they are not the class's own.
        prefix: what the full names begin with.
    """
    for name, field in config.model_fields.items():
        default = getattr(start, name) if start else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from flags_of(type(default), default, f"{prefix}{name}.")
        for flag in (one for one in field.metadata if isinstance(one, Flag)):
            yield Setting(prefix + name, field, Flag(flag.metavar, flag.name or name), default)


def add_flags(parser: argparse.ArgumentParser, configs: Iterable[type[BaseModel]]) -> None:
    """Give a command the flags of configurations; fields with the same flag share it."""
    by_flag: dict[str, list[Setting]] = {}
    for setting in (setting for config in configs for setting in flags_of(config)):
        by_flag.setdefault(setting.flag.name, []).append(setting)
    for name, sharing in by_flag.items():
        first = sharing[0]
        description = "; ".join(str(one.field.description) for one in sharing)
        has_default = not (first.field.is_required() or first.default is None or first.default is False)
        default = ",".join(map(str, first.default)) if isinstance(first.default, tuple) else first.default
        help = description + (f" (default: {default})" if has_default else "")
        options: dict[str, Any] = {"help": help.replace("%", "%%"), "required": first.field.is_required()}
        if first.field.annotation is bool:
            options |= {"action": "store_const", "const": True}
        else:
            options |= {"metavar": first.flag.metavar} | _type(first.field.annotation, first.flag)
        parser.add_argument(*spellings(name), **options)


def spellings(name: str) -> list[str]:
    """A flag with hyphens, and with underscores as the published documentation writes it."""
    return list(dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]))


def address(text: str) -> str:
    """The value of a flag that names a folder or file: a local one by its whole path, from where the user stands.

    Raises:
        argparse.ArgumentTypeError: it is empty.
        InputError: it cannot be used, see `checked_address`.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty address; name a local folder or file, or s3://bucket/prefix")
    return text if checked_address(text).startswith(S3) else str(local_path(text).absolute())


def addresses(text: str) -> str:
    """The value of a flag that names several files, separated by commas."""
    return ",".join(address(one) for one in text.split(","))


def settings_of(options: argparse.Namespace, table: str = "") -> Settings:
    """The settings that a command line asks for, whose flags are for a table or for all; ConfigError if unusable."""
    file = getattr(options, "config", None)
    values = read_toml(file) if file else {}
    validated(Settings, values, f"{file}: ")  # alone: flags neither hide its faults nor are theirs blamed on it
    return validated(Settings, with_flags(Settings, values, options, table))


def retraining_of(options: argparse.Namespace) -> tuple[Settings, CubesConfig | None, RetrainingConfig]:
    """All settings, of which preparation counts; the cubes that the file asks for, if any; the retraining."""
    settings = settings_of(options)
    file = read_toml(options.config) if options.config else {}
    values = {"pretraining": file.get("pretraining", {})}
    retraining = validated(RetrainingConfig, with_flags(RetrainingConfig, values, options))
    return settings, settings.cubes if "cubes" in file else None, retraining


def with_flags(
    config: type[BaseModel], values: dict[str, Any], options: argparse.Namespace, table: str = ""
) -> dict[str, Any]:
    """Values of a configuration, replaced where a flag is given: in all tables, or in one."""
    for setting in flags_of(config):
        value = getattr(options, setting.flag.name, None)
        if value is not None and setting.name.startswith(table):
            *tables, name = setting.name.split(".")
            reduce(lambda table, part: table.setdefault(part, {}), tables, values)[name] = value
    return values


def config_of(config: type[ConfigT], options: argparse.Namespace) -> ConfigT:
    """The configuration that a command's flags ask for; ConfigError if they cannot be used."""
    return validated(config, with_flags(config, {}, options))


def validated(config: type[ConfigT], values: dict[str, Any], source: str = "") -> ConfigT:
    """A configuration with these values; ConfigError if they make none, which begins with ``source``.

    Types are strict, as in JSON: ``true`` is no number, and neither is a number in quotes.
    """
    try:
        config.model_validate(values)  # of what no type takes, its messages are better
        return config.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(f"{source}{fault_of(error)}") from error


def read_toml(address: Address) -> dict[str, Any]:
    """The content of a TOML file; ConfigError if it cannot be read, or is none."""
    try:
        return tomllib.loads(local_path(address).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{address}: not a readable TOML file: {error}") from error


def _type(annotation: Any, flag: Flag) -> dict[str, Any]:
    """How argparse reads a value of this type, which may be none."""
    kind = get_args(annotation)[0] if NoneType in get_args(annotation) else annotation
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is tuple:
        return {"type": partial(_numbers, kind=get_args(kind)[0])}
    return {"type": address if flag.metavar in ("D", "F", "ROOT") else kind}


def _numbers(text: str, kind: type[int] | type[float]) -> list[float]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        like = "whole numbers like 32,48,64,80,96" if kind is int else "numbers like 0.003,0.01"
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {like}") from None
