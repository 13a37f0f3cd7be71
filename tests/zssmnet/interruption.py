"""A storage whose process is killed, for tests: it raises in place of its n-th change."""

import json
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from zssmnet.storage import LocalStorage
from zssmnet.storage.local import PARTIAL
from zssmnet.storage.process_id import this_process
from zssmnet.storage.records import RECORDS


class Killed(BaseException):
    """Nobody catches it."""


class MortalStorage(LocalStorage):
    """Dies after so many changes, its own and those of its children together; its lock is no change.

    Attributes:
        changes: how many there were.
    """

    def __init__(self, folder: Path, most: int, parent: "MortalStorage | None" = None) -> None:
        super().__init__(folder)
        self.changes = 0
        self._parent = parent
        self._most = most

    def _change(self) -> None:
        if self._parent:
            self._parent._change()
            return
        if self.changes == self._most:
            raise Killed
        self.changes += 1

    def child(self, folder: str) -> "MortalStorage":
        return MortalStorage(super().child(folder).folder, 0, self)

    def publishing(self, key: str) -> AbstractContextManager[Path]:
        self._change()
        return super().publishing(key)

    def remove(self, key: str) -> None:
        self._change()
        super().remove(key)


def leave_half_written(folder: Path) -> Path:
    """What a killed process of this machine leaves below a folder: its workplace, with a file."""
    left = folder / PARTIAL / f"{replace(this_process(), run='0123abcd')}-0"
    left.mkdir(parents=True)
    (left / "file").write_bytes(b"half")
    return left.parent


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder; records without the versions of outputs, which depend on when they were written."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(folder)): _timeless(data) if path.parent.name == RECORDS else data
        for path, data in files.items()
    }


def _timeless(record: bytes) -> bytes:
    try:
        content = json.loads(record)
        for output in content["outputs"]:
            output.pop("version", None)
    except (ValueError, TypeError, KeyError, AttributeError):  # no record, in tests of what is no record
        return record
    return json.dumps(content).encode()


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file below a folder was written, and as which."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}
