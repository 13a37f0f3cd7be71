"""Checking a working root against its records: what is missing, changed, unfinished or foreign."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from zssmnet.errors import VerificationError
from zssmnet.layout import Layout
from zssmnet.records import NOT_YET, VERSIONS, Output, Record, read_record, record_key, record_names
from zssmnet.storage import Storage, open_storage, sha256_of

_WORKPLACES = ("training/",)
"""Where runs keep what has no record: checkpoints and logs."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file.

    Attributes:
        kind: ``missing``: a record tells of it, but it is not there; ``changed``: it is not what its record tells of;
            ``unfinished``: a run was stopped before it came out; ``foreign``: no record tells of it.
        file: its address.
    """

    kind: Literal["missing", "changed", "unfinished", "foreign"]
    file: str


def verify_root(root: str) -> list[Finding]:
    """Check all stages below a working root; every file is read.

    Raises:
        VerificationError: there is no record at all.
    """
    layout = Layout(root)
    stages = [open_storage(folder) for folder in (layout.data, layout.cubes, layout.weights, layout.reports)]
    if not any(record_names(stage) for stage in stages):
        raise VerificationError(f"{root}: no record below SSL; name the working root of 'zssmnet run'")
    return [finding for stage in stages for finding in verify_stage(stage)]


def verify_stage(stage: Storage) -> list[Finding]:
    """Check the files of one stage, and of the versions in it, against their records."""
    findings: list[Finding] = []
    told: set[str] = set()
    for name in record_names(stage):
        record = read_record(stage, name, Record)
        told.add(record_key(name))
        if record is None:
            findings.append(Finding("changed", stage.where(record_key(name))))
            continue
        told.update(output.key for output in record.outputs)
        findings.extend(_check(stage, record))
    keys = [entry.key for entry in stage.list() if not entry.key.startswith(_WORKPLACES)]
    versions = sorted({folder for key in keys if (folder := _version_of(key))})
    foreign = (key for key in keys if key not in told and not _version_of(key))
    findings += [Finding("foreign", stage.where(key)) for key in foreign]
    return findings + [finding for folder in versions for finding in verify_stage(stage.child(folder))]


def _version_of(key: str) -> str | None:
    """The folder of the version that a file belongs to, a stage of its own."""
    first, *others = key.split("/")
    return f"{VERSIONS}/{others[0]}" if first == VERSIONS and len(others) > 1 else None


def _check(stage: Storage, record: Record) -> Iterator[Finding]:
    for output in record.outputs:
        if output.size == NOT_YET:
            yield Finding("unfinished", stage.where(output.key))
        elif (entry := stage.stat(output.key)) is None:
            yield Finding("missing", stage.where(output.key))
        elif entry.size != output.size or not _is_same(stage, output):
            yield Finding("changed", stage.where(output.key))


def _is_same(stage: Storage, output: Output) -> bool:
    return sha256_of(stage.local(output.key)) == output.sha256
