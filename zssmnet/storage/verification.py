"""Checking a working root against its records: what is missing, changed, unfinished, foreign or outdated.

Every file is read once, in pieces. Records are compared with those of the stage before as well: a file is outdated if
what it was made from is not what lies there now.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zssmnet.errors import UnreadableFileError, VerificationError
from zssmnet.storage import Entry, LocalStorage, Storage, open_storage, sha256_of
from zssmnet.storage.layout import Layout
from zssmnet.storage.records import NOT_YET, VERSIONS, Record, read_record, read_records, record_key, record_names

_WORKPLACES = ("training/",)
"""Where runs keep, below the weights, what has no record: checkpoints and logs."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file.

    Attributes:
        kind: ``missing``: a record lists it, but it is not there; ``changed``: its content is not the recorded one,
            or it is a record that cannot be read; ``unreadable``: the system cannot read it; ``unfinished``: a run was
            stopped before it came out; ``foreign``: no record lists it; ``outdated``: it has the
            recorded content, but was made from something that is not there any more.
    """

    kind: Literal["missing", "changed", "unreadable", "unfinished", "foreign", "outdated"]
    file: str


def verify_root(root: str) -> list[Finding]:
    """Check all stages below a working root, every file; VerificationError if none has a record, or one is a file."""
    layout = Layout(root)
    folders = layout.zones_model, layout.zones, layout.data, layout.cubes, layout.weights, layout.reports
    stages = zones_model, zones, data, cubes, weights, reports = [open_storage(folder) for folder in folders]
    for stage in stages:
        if isinstance(stage, LocalStorage) and stage.folder.is_file():
            raise VerificationError(f"{stage.uri}: is a file, not the folder that a run has made; move it away")
    if not any(record_names(stage) for stage in stages):
        raise VerificationError(f"{root}: no record below SSL; name the working root of 'zssmnet run'")
    return [
        *verify_stage(zones_model, _WORKPLACES),
        *verify_stage(zones),
        *verify_stage(data),
        *verify_stage(cubes),
        *_outdated_cubes(data, cubes),
        *verify_stage(weights, _WORKPLACES),
        *_outdated_model(cubes, weights),
        *verify_stage(reports),
    ]


def verify_stage(stage: Storage, workplaces: Sequence[str] = ()) -> list[Finding]:
    """Check the files of one stage, and of the versions in it, against their records.

    Args:
        workplaces: folders in it whose files have no record.
    """
    findings: list[Finding] = []
    entries = {entry.key: entry for entry in stage.list() if not _is_set_apart(entry.key, workplaces)}
    recorded: set[str] = set()
    for name in record_names(stage):
        record = read_record(stage, name, Record)
        recorded.add(record_key(name))
        if record is None:
            findings.append(Finding("changed", stage.where(record_key(name))))
            continue
        recorded.update(output.key for output in record.outputs)
        findings.extend(_check(stage, record, entries))
    versions = sorted({folder for key in entries if (folder := _version_of(key))})
    foreign = (key for key in entries if key not in recorded and not _version_of(key))
    findings += [Finding("foreign", stage.where(key)) for key in foreign]
    return findings + [finding for folder in versions for finding in verify_stage(stage.child(folder))]


def _is_set_apart(key: str, workplaces: Sequence[str]) -> bool:
    """Whether a file lies in a workplace or below a hidden folder, such as runs keep for themselves."""
    return key.startswith(tuple(workplaces)) or any(folder.startswith(".") for folder in key.split("/")[:-1])


def _version_of(key: str) -> str | None:
    """The folder of the version that a file belongs to, a stage of its own."""
    first, *others = key.split("/")
    return f"{VERSIONS}/{others[0]}" if first == VERSIONS and len(others) > 1 else None


def _check(stage: Storage, record: Record, entries: Mapping[str, Entry]) -> Iterator[Finding]:
    for output in record.outputs:
        if output.size == NOT_YET:
            yield Finding("unfinished", stage.where(output.key))
        elif (entry := entries.get(output.key)) is None:
            yield Finding("missing", stage.where(output.key))
        else:
            try:
                if entry.size != output.size or sha256_of(stage.local(output.key)) != output.sha256:
                    yield Finding("changed", stage.where(output.key))
            except UnreadableFileError:
                yield Finding("unreadable", stage.where(output.key))


def _outdated_cubes(data: Storage, cubes: Storage) -> Iterator[Finding]:
    """Files of cubes that were not cut from the prepared cases that lie there: some are new, changed or gone."""
    prepared, present = _recorded(data), {entry.key for entry in data.list()}
    if not prepared:  # not made here, or removed to save space
        return
    for name, record in read_records(cubes, Record):
        if not record.outputs:
            continue
        cut = {one.name: one.sha256 for one in record.inputs}
        subset = f"subset{name.removesuffix('.npy').rpartition('_')[2]}/"
        wanted = [item for item in prepared.items() if item[0].startswith(subset)]
        gone = cut.keys() - prepared.keys() - present  # what is there without a record may have been cut as well
        if gone or any(cut.get(key) != sha256 for key, sha256 in wanted):
            yield Finding("outdated", cubes.where(name))


def _outdated_model(cubes: Storage, weights: Storage) -> Iterator[Finding]:
    """The published model, if neither it nor the last challenger was trained on the cubes that lie there."""
    present = _recorded(cubes)
    trained = [record for _, record in read_records(weights, Record)]
    used = [{one.name: one.sha256 for one in record.inputs} for record in trained]
    if present and used and not any(present.items() <= inputs.items() for inputs in used):
        for record in trained:
            yield from (Finding("outdated", weights.where(output.key)) for output in record.outputs)


def _recorded(stage: Storage) -> dict[str, str]:
    """SHA-256 of all outputs in the records of a stage, by key."""
    return {output.key: output.sha256 for _, record in read_records(stage, Record) for output in record.outputs}
