"""What a published file was made from, so that a second run knows what is still true.

A record lies in the folder ``records`` of its stage and says what went in (fingerprints), with which parameters and
which version of the method, and what came out. It is written last: no record, not done. A run may be killed at any
moment, so the record of what is about to be replaced must not outlive it: it would vouch for files that it does not
describe.

Whoever can write to the storage can write records. One that names files outside its stage, or that is not about what
it is named after, counts as none.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from zssmnet.storage import Storage, sha256_of
from zssmnet.storage.keys import is_key

RECORDS = "records"
VERSIONS = "versions"
"""Folder of a stage for what it published one after another: each folder in it is a stage of its own."""
NOT_YET = -1
"""Size of a file that is still to come out: a record that names one does not count as done."""

LARGEST_RECORD = 2**28
"""Bytes; more is no record (a record of PI-CAI's has 0.5 MB at most)."""


def _key(value: str) -> str:
    if not is_key(value):
        raise ValueError("no name of a file below the root")
    return value


def _name(value: str) -> str:
    if not is_key(value) or "/" in value:
        raise ValueError("no name of a folder")
    return value


Key = Annotated[str, AfterValidator(_key)]
"""A file below the root of a stage."""
Name = Annotated[str, AfterValidator(_name)]
"""One part of a key."""


class Input(BaseModel):
    """A file that went in. ``version`` only saves hashing it again: SHA-256 decides."""

    model_config = ConfigDict(frozen=True)

    name: Key
    size: int
    version: str
    sha256: str


class Output(BaseModel):
    """A file that came out."""

    model_config = ConfigDict(frozen=True)

    key: Key
    size: int
    sha256: str


class Record(BaseModel):
    """What all records say."""

    model_config = ConfigDict(frozen=True)

    method: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def tells_of(self, name: str) -> bool:
        """Whether this can be the record ``name``: it may name files of its own alone."""
        return True

    def identity(self) -> str:
        """SHA-256 of what the record tells, whenever its inputs were written."""
        told = self.model_dump_json(exclude={"inputs": {"__all__": {"version"}}})
        return hashlib.sha256(told.encode()).hexdigest()


RecordT = TypeVar("RecordT", bound=Record)


def read_record(storage: Storage, name: str, kind: type[RecordT]) -> RecordT | None:
    """The record ``name``; None if there is none, one that this version cannot read, or one that cannot be true."""
    key = record_key(name)
    entry = storage.stat(key)
    if entry is None or entry.size > LARGEST_RECORD:
        return None
    try:
        record = kind.model_validate_json(storage.read(key))
    except ValidationError:
        return None
    return record if record.tells_of(name) else None


def publish_record(storage: Storage, name: str, record: Record) -> None:
    """Publish ``record`` under ``name``."""
    storage.publish_bytes(record_key(name), record.model_dump_json(indent=1).encode() + b"\n")


def remove_record(storage: Storage, name: str) -> None:
    """Remove the record ``name``."""
    storage.remove(record_key(name))


def record_names(storage: Storage) -> list[str]:
    """Names of all records of a stage, sorted."""
    keys = [entry.key for entry in storage.list(RECORDS) if entry.key.endswith(".json") and is_key(entry.key)]
    return sorted(key.removeprefix(f"{RECORDS}/").removesuffix(".json") for key in keys)


def record_key(name: str) -> str:
    """Where the record ``name`` lies."""
    return f"{RECORDS}/{name}.json"


def fingerprints(files: Iterable[tuple[Storage, str]], known: Sequence[Input] = ()) -> tuple[Input, ...]:
    """Fingerprints of files, each a storage and a key.

    Args:
        files: what to fingerprint.
        known: earlier fingerprints; a file of the same size and version is not read again.

    Raises:
        StorageError: a file is not there or cannot be read.
    """
    earlier = {(one.name, one.size, one.version): one for one in known}
    found = []
    for storage, key in files:
        entry = storage.stat(key)
        size, version = (entry.size, entry.version) if entry else (-1, "")
        again = earlier.get((key, size, version))
        found.append(again or Input(name=key, size=size, version=version, sha256=sha256_of(storage.local(key))))
    return tuple(found)


def same_content(ours: Sequence[Input], theirs: Sequence[Input]) -> bool:
    """Whether two lists of fingerprints tell of the same content, whenever it was written."""
    return [(one.name, one.sha256) for one in ours] == [(one.name, one.sha256) for one in theirs]


def outputs_there(storage: Storage, outputs: Iterable[Output]) -> bool:
    """Whether all files that came out are still there, with their size."""
    entries = ((storage.stat(output.key), output) for output in outputs)
    return all(entry is not None and entry.size == output.size for entry, output in entries)
