"""Records: what a published file was made from, so that a second run knows what is up to date.

A record lies in the folder ``records`` of its stage and is published last: no record, not done. The record of what is
about to be replaced must not outlive it, since a run may be killed at any moment. Content decides, never size alone: a
file whose version (see `Entry`) is the recorded one has the recorded content, any other is hashed.

Whoever can write to the storage can write records. One that names files outside its stage, or that does not belong to
its name, counts as none.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from zssmnet.errors import StorageError, UnreadableFileError
from zssmnet.storage import Storage, sha256_of
from zssmnet.storage.keys import unusable
from zssmnet.storage.ownership import check_ours

log = logging.getLogger(__name__)

RECORDS = "records"
VERSIONS = "versions"
"""Folder of a stage for the versions that it published: each folder in it is a stage of its own."""
NOT_YET = -1
"""Size of a file that is not published yet: a record with such an output does not count as done."""

LARGEST_RECORD = 2**28
"""Bytes; more is no record (a record of PI-CAI's has 0.5 MB at most)."""


def _key(value: str) -> str:
    if reason := unusable(value):
        raise ValueError(reason)
    return value


Key = Annotated[str, AfterValidator(_key)]
"""A file below the root of a stage."""
Name = Annotated[Key, Field(pattern="^[^/]*$")]
"""One part of a key."""


class Input(BaseModel, frozen=True):
    """An input file. ``version`` only saves hashing it again: SHA-256 decides."""

    name: Key
    size: int
    version: str
    sha256: str


class Output(BaseModel, frozen=True):
    """An output file. ``version`` only saves hashing it again: outputs with the same content are equal."""

    key: Key
    size: int
    sha256: str
    version: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Output) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    @property
    def _content(self) -> tuple[str, int, str]:
        return self.key, self.size, self.sha256


class Record(BaseModel, frozen=True):
    """What all records have in common."""

    method: int
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def is_valid_for(self, name: str) -> bool:
        """Whether this can be the record ``name``: its outputs are files that belong to that name."""
        return True

    def identity(self) -> str:
        """SHA-256 of the record without the versions of files, which depend on when they were written."""
        version = {"__all__": {"version"}}
        content = self.model_dump_json(exclude={"inputs": version, "outputs": version})
        return hashlib.sha256(content.encode()).hexdigest()


RecordT = TypeVar("RecordT", bound=Record)


def read_record(storage: Storage, name: str, kind: type[RecordT]) -> RecordT | None:
    """The record ``name``; None if there is none, one that this version cannot read, or one that does not belong to
    that name."""
    key = record_key(name)
    entry = storage.stat(key)
    if entry is None or entry.size > LARGEST_RECORD:
        return None
    try:
        record = kind.model_validate_json(storage.read(key))
    except ValidationError:
        return None
    return record if record.is_valid_for(name) else None


def read_records(storage: Storage, kind: type[RecordT], prefix: str = "") -> Iterator[tuple[str, RecordT]]:
    """Names and records of a kind, of those whose names begin with ``prefix``; see `read_record`."""
    for name in record_names(storage):
        if name.startswith(prefix) and (record := read_record(storage, name, kind)):
            yield name, record


def publish_record(storage: Storage, name: str, record: Record) -> None:
    """Publish ``record`` under ``name``."""
    storage.publish_bytes(record_key(name), _content(record))


def publish_recorded(
    stage: Storage,
    name: str,
    record: RecordT,
    files: Mapping[str, Callable[[Path], object]],
    replaced: Iterable[str] = (),
    force: bool = False,
) -> RecordT:
    """Publish files and their record; before them, a record of what is to come, so that a killed run's are found.

    Args:
        record: the record but for its outputs.
        files: what writes each file to a local path, by key.
        replaced: keys of earlier files, which are removed if they are not among the files.
        force: whether files without a record may be replaced.

    Raises:
        InputError: a file is there without a record: somebody else's.
    """
    if stage.stat(record_key(name)) is None:
        for key in files:
            check_ours(stage, key, lambda file: False, force)
    gone = sorted(set(replaced) - files.keys())
    to_come = tuple(Output(key=key, size=NOT_YET, sha256="") for key in (*files, *gone))
    publish_record(stage, name, record.model_copy(update={"outputs": to_come}))
    outputs = []
    for key, write in files.items():
        with stage.publishing(key) as path:
            write(path)
            produced = Output(key=key, size=path.stat().st_size, sha256=sha256_of(path))
        outputs.append(with_version(stage, produced))
    for key in gone:
        stage.remove(key)
    record = record.model_copy(update={"outputs": tuple(outputs)})
    publish_record(stage, name, record)
    return record


def remove_record(storage: Storage, name: str) -> None:
    """Remove the record ``name``."""
    storage.remove(record_key(name))


def record_names(storage: Storage) -> list[str]:
    """Names of all records of a stage, sorted."""
    keys = [one.key for one in storage.list(RECORDS) if one.key.endswith(".json") and not unusable(one.key)]
    return sorted(key.removeprefix(f"{RECORDS}/").removesuffix(".json") for key in keys)


def record_key(name: str) -> str:
    """Where the record ``name`` lies."""
    return f"{RECORDS}/{name}.json"


def fingerprints(files: Iterable[tuple[Storage, str]], known: Sequence[Input] = ()) -> tuple[Input, ...]:
    """Fingerprints of files, each a storage and a key.

    Args:
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
    """Whether two lists of fingerprints are of the same content, whenever it was written."""
    return [(one.name, one.sha256) for one in ours] == [(one.name, one.sha256) for one in theirs]


def output_of(storage: Storage, key: str) -> Output:
    """A file that is there, as an output."""
    file = storage.local(key)
    return with_version(storage, Output(key=key, size=file.stat().st_size, sha256=sha256_of(file)))


def with_version(storage: Storage, output: Output) -> Output:
    """An output that was just published, with its version."""
    entry = storage.stat(output.key)
    return output.model_copy(update={"version": entry.version if entry else ""})


def up_to_date(storage: Storage, known: RecordT | None, inputs: tuple[Input, ...] | None = None) -> RecordT | None:
    """The record with the present versions of all files; None if a file is missing or has another content.

    Nothing is written: a stage that did its work publishes the present versions with `refresh_record`.

    Args:
        inputs: present fingerprints of the same inputs, which replace those of the record.
    """
    outputs = present_outputs(storage, known.outputs) if known else None
    if known is None or outputs is None:
        return None
    return known.model_copy(update={"outputs": outputs, "inputs": known.inputs if inputs is None else inputs})


def refresh_record(storage: Storage, name: str, present: Record) -> None:
    """Publish a record with the present versions of its files, so that they are not hashed again.

    Nothing happens if the published record has them, if it differs in anything else, if it has been replaced
    meanwhile, or if the storage can only be read.
    """
    entry = storage.stat(record_key(name))
    known = read_record(storage, name, type(present))
    if entry is None or known is None or known.identity() != present.identity() or _content(known) == _content(present):
        return
    try:
        storage.exchange(record_key(name), _content(present), entry.version)
    except StorageError as error:
        log.info("%s: its files will be hashed again by the next run: %s", storage.where(record_key(name)), error)


def outputs_there(storage: Storage, outputs: Iterable[Output]) -> bool:
    """Whether all outputs were published, by their size: for callers that compare the content before they use it."""
    entries = ((storage.stat(output.key), output) for output in outputs)
    return all(entry is not None and entry.size == output.size for entry, output in entries)


def present_outputs(storage: Storage, outputs: Iterable[Output]) -> tuple[Output, ...] | None:
    """Outputs with their present versions; None if one is missing, unreadable, or has another content."""
    found = []
    for output in outputs:
        entry = storage.stat(output.key)
        if entry is None or entry.size != output.size:
            return None
        try:
            if entry.version != output.version and sha256_of(storage.local(output.key)) != output.sha256:
                return None
        except UnreadableFileError:
            return None
        found.append(output.model_copy(update={"version": entry.version}))
    return tuple(found)


def _content(record: Record) -> bytes:
    return record.model_dump_json(indent=1).encode() + b"\n"
