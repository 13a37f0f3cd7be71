"""Weights that compete: read from files here or in S3, with what their records tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from zssmnet.config import NetworkConfig
from zssmnet.errors import CheckpointError, ConfigError
from zssmnet.handoff.weights import PACKAGE_CONFIG, Weights, read_weights, record_in
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import LocalStorage, Storage, open_storage
from zssmnet.storage.local import local_path


@dataclass(frozen=True)
class Contender:
    """Weights that compete as one arm.

    Attributes:
        weights: one file, or one of each pre-training seed.
        records: of the published models in these files; None where none lies beside the file.
    """

    name: str
    weights: tuple[Weights, ...]
    records: tuple[PretrainedModel | None, ...]


def files_of(addresses: str) -> list[str]:
    """The addresses of an arm's files, which are separated by commas."""
    return [one for one in addresses.split(",") if one]


def place_of(address: str) -> tuple[Storage, str]:
    """The folder of a file, here or in S3, and its name there."""
    if "://" in address:
        folder, _, name = address.rpartition("/")
        return open_storage(folder), name
    path = local_path(address)
    return LocalStorage(path.parent), path.name


def read_contender(addresses: str, may_have_learnt_nothing: bool = False) -> Contender:
    """Read an arm's files.

    Args:
        addresses: files, local or in S3, or local folders of packages, separated by commas.
        may_have_learnt_nothing: whether weights whose own pretext task was not learnt are taken as well.

    Raises:
        CheckpointError: a file that cannot be used, or whose pretext task was not learnt.
        ConfigError: no file is named.
    """
    if not (files := files_of(addresses)):
        raise ConfigError(f"weights {addresses!r} name no file; give --weights F, or F,G,... for one arm of several")
    read = [_read(file) for file in files]
    if not may_have_learnt_nothing:
        for file, (_, record) in zip(files, read, strict=True):
            _check_learnt(file, record)
    return Contender(_name(read), tuple(one for one, _ in read), tuple(record for _, record in read))


def network_of(contenders: Sequence[Contender]) -> NetworkConfig:
    """The network of all weights; CheckpointError if they are of several, or have not six input channels."""
    first, *others = (weights for one in contenders for weights in one.weights)
    for other in (first, *others):
        if (other.channels, other.merge, other.in_channels) != (first.channels, first.merge, 6):
            raise CheckpointError(
                f"{other.path}: {other.in_channels} input channels, channels {other.channels}, merge {other.merge!r}, "
                f"but {first.path} has {first.in_channels}, {first.channels} and {first.merge!r}; probe weights of one "
                "network with six input channels at a time"
            )
    return NetworkConfig(channels=first.channels, merge=first.merge)


def _read(address: str) -> tuple[Weights, PretrainedModel | None]:
    storage, name = place_of(address)
    if isinstance(storage, LocalStorage) and (storage.folder / name / PACKAGE_CONFIG).is_file():
        return read_weights(storage.folder / name), None
    record = record_in(storage, name)
    weights = read_weights(storage.folder / name if isinstance(storage, LocalStorage) else storage.local(name))
    # a copy from S3 has no record beside it, by which else the merging unit is known
    return (replace(weights, merge=record.parameters.network.merge) if record else weights), record


def _name(read: Sequence[tuple[Weights, PretrainedModel | None]]) -> str:
    """Recipe and run where records tell, else the file's name."""
    (weights, record), more = read[0], len(read) - 1
    if record is None:
        stem = PurePosixPath(weights.path).stem
        return f"{stem} and {more} more" if more else stem
    recipe = record.parameters.corruption.recipe
    return f"{recipe}, {more + 1} trainings" if more else f"{recipe} {record.run_id}"


def _check_learnt(address: str, record: PretrainedModel | None) -> None:
    explained = record.metrics.get("explained_variance") if record else None
    if explained is not None and explained <= 0:
        raise CheckpointError(
            f"{address}: its explained variance is {explained:.1%}: it restores no better than one constant for each "
            "channel, and cannot be expected to help; train it longer, or probe it all the same with --force"
        )
