"""Storage in a folder on a local disk."""

import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from typing_extensions import override

from zssmnet.errors import StorageError
from zssmnet.storage.address import local_path
from zssmnet.storage.interface import Entry, Storage, flush_to_disk, storage_errors
from zssmnet.storage.keys import checked_key
from zssmnet.storage.process_id import new_name, sweep

T = TypeVar("T")
PARTIAL = ".partial"
ABANDONED_S = 86_400
"""A half-written file that nobody has touched for so long is taken to be left behind, wherever its writer was."""

GUARD_S = 60.0
"""An exchange takes milliseconds; what is left of one after this time was left by a process that was killed."""

_FIRST_S, _LAST_S = -62_135_510_400, 253_402_214_400
"""The times that Python knows in every time zone, in s: broken clocks and copies give files others."""
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class LocalStorage(Storage):
    """A folder on a local disk.

    Half-written files live in ``.partial/<owner>-<n>/`` below the root, on the same file system,
    and are renamed into place. Links to folders are followed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = local_path(folder).absolute()
        self.uri = str(self.folder)

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)

    @override
    def list(self, prefix: str = "") -> list[Entry]:
        return [entry for key in self.keys(prefix) if (entry := self._entry(key))]

    def keys(self, prefix: str = "") -> Sequence[str]:
        """Sorted keys of all but folders, also of what is no file: pipes, dead links."""
        top = self._path(prefix) if prefix else self.folder
        return sorted(path.relative_to(self.folder).as_posix() for path in _files_below(top))

    @override
    def stat(self, key: str) -> Entry | None:
        return self._entry(checked_key(key))

    def _entry(self, key: str) -> Entry | None:
        path = self.folder / key
        with storage_errors(path, "read"):
            try:
                found = path.stat()
            except OSError as error:
                if error.errno in _MISSING:
                    return None
                raise
        version = f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}"  # clocks of file systems tick slowly
        modified = datetime.fromtimestamp(min(max(found.st_mtime, _FIRST_S), _LAST_S), UTC)
        return Entry(key, found.st_size, version, modified) if stat.S_ISREG(found.st_mode) else None

    @override
    def local(self, key: str) -> Path:
        path = self._path(key)
        if self._entry(key) is None:
            raise StorageError(f"{path}: no such file")
        return path

    @override
    @contextmanager
    def publishing(self, key: str) -> Iterator[Path]:
        target = self._path(key)
        workplace = self.folder / PARTIAL / new_name()
        partial = workplace / target.name
        try:
            with storage_errors(target, "written"):
                _retried(lambda: workplace.mkdir(parents=True))
                yield partial
                flush_to_disk(partial)
                is_new_folder = not target.parent.is_dir()
                _retried(lambda: _move(partial, target))
                _flush_entry(target, is_new_folder)
        finally:
            try:
                shutil.rmtree(workplace, ignore_errors=True)
            finally:  # also if a signal ends the process meanwhile: there is only one signal
                shutil.rmtree(workplace, ignore_errors=True)
                _remove_empty(workplace.parent, self.folder)

    @override
    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        path = self._path(key)
        with storage_errors(path, "written"):
            if version is None:
                is_done = _retried(lambda: _create(path, data or b""))
            else:
                is_done = self._swap(key, data, version)
        if not is_done:
            return None
        if data is None:
            _remove_empty(path.parent, self.folder)
            return ""
        entry = self._entry(key)
        return entry.version if entry else None

    def _swap(self, key: str, data: bytes | None, version: str) -> bool:
        """Replace a version of a file.

        Who creates the guard, a file named by that version, may replace it. A process that was killed between its two
        steps leaves the guard behind; that old guard is replaced in the same way.
        """
        digest = hashlib.sha256(f"{key}\0{version}".encode()).hexdigest()
        guard = f"{PARTIAL}/exchange/{digest}"
        path = self.folder / guard
        if not _retried(lambda: _create(path, data or b"")):
            old = self._entry(guard)
            if old is None or time.time() - old.modified.timestamp() <= GUARD_S:
                return False
            if not self._swap(guard, data or b"", old.version):
                return False
        try:
            entry = self._entry(key)
            if entry is None or entry.version != version:
                return False
            if data is None:
                (self.folder / key).unlink()
            else:
                path.replace(self.folder / key)
            return True
        finally:
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, self.folder)

    @override
    def remove(self, key: str) -> None:
        path = self._path(key)
        with storage_errors(path, "removed"), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            _flush_entry(path)
        _remove_empty(path.parent, self.folder)

    @override
    def child(self, folder: str) -> "LocalStorage":
        return LocalStorage(self._path(folder))

    @override
    def sweep(self) -> None:
        sweep(self.folder / PARTIAL, is_abandoned=_is_old)
        _remove_empty(self.folder / PARTIAL, self.folder)


def _retried(action: Callable[[], T]) -> T:
    """The result of an action that makes folders, though others may remove an empty one in the same moment."""
    for _ in range(99):
        with suppress(FileNotFoundError, FileExistsError):
            return action()
    return action()


def _create(path: Path, data: bytes) -> bool:
    """Create a file with ``data``; False if there is one already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open("xb", buffering=0)
    except FileExistsError:
        if path.is_file():
            return False
        raise  # a folder or pipe, or another has removed the file meanwhile
    with file:
        try:
            file.write(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return True


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder, and those between it and ``top``, if nothing is in them: as in a bucket, there are none."""
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent


def _files_below(top: Path) -> Iterator[Path]:
    """All files below a folder but the half-written ones; a folder that can be reached twice is entered once."""
    entered: set[Path] = set()

    def failed(error: OSError) -> None:
        if error.errno not in _MISSING:
            with storage_errors(Path(error.filename), "listed"):
                raise error

    with storage_errors(top, "listed"):
        for folder, folders, names in os.walk(top, onerror=failed, followlinks=True):
            if (place := Path(folder).resolve()) in entered:
                folders.clear()
                continue
            entered.add(place)
            folders[:] = sorted(set(folders) - {PARTIAL, "lost+found"})  # the system's own, readable for root alone
            yield from (Path(folder, name) for name in names)


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file() and not target.is_dir():
        raise StorageError(f"{target}: is a device or pipe, no file; name another")
    file.replace(target)


def _flush_entry(path: Path, and_its_folders: bool = False) -> None:
    """Wait until the entry of a file in its folder is on the disk, so that after a power cut no record is there whose
    files are not; where its folder is new, the folders' own entries as well.
    """
    for folder in path.parents if and_its_folders else [path.parent]:
        with suppress(PermissionError, FileNotFoundError):  # not to be listed, above the root; removed, being empty
            flush_to_disk(folder)


def _is_old(workplace: Path) -> bool:
    with suppress(FileNotFoundError):  # it was published in this moment
        last_change = max(path.stat().st_mtime for path in (workplace, *workplace.iterdir()))
        return time.time() - last_change > ABANDONED_S
    return False
