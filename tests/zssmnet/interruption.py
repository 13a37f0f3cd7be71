"""A storage whose process is killed, for tests: it raises in place of its n-th change."""

from contextlib import AbstractContextManager
from pathlib import Path

from zssmnet.storage import LocalStorage
from zssmnet.storage.lock import HELD


class Killed(BaseException):
    """Nobody catches it."""


class MortalStorage(LocalStorage):
    """Dies after so many changes, its own and those of its children together; who holds a folder is no change."""

    def __init__(self, folder: Path, changes: int, parent: "MortalStorage | None" = None) -> None:
        super().__init__(folder)
        self._parent = parent
        self._changes_left = changes

    def _change(self, key: str) -> None:
        if key.startswith(f"{HELD}/"):
            return
        if self._parent:
            self._parent._change(key)
            return
        if not self._changes_left:
            raise Killed
        self._changes_left -= 1

    def child(self, folder: str) -> "MortalStorage":
        return MortalStorage(super().child(folder).folder, 0, self)

    def publishing(self, key: str) -> AbstractContextManager[Path]:
        self._change(key)
        return super().publishing(key)

    def remove(self, key: str) -> None:
        self._change(key)
        super().remove(key)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def traces(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file below a folder was written, and as which."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}
