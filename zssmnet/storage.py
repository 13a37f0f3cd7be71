"""One interface over storage. A file is published whole, in one step, or not at all.

Keys are POSIX paths relative to a storage's root, for example ``subset0/11373_1001396.nii.gz``.
"""

import hashlib
import itertools
import os
import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from typing_extensions import override

from zssmnet.errors import InputError, StorageError

PARTIAL = ".partial"
_counter = itertools.count()


@dataclass(frozen=True)
class Entry:
    """A published file as a listing shows it.

    Attributes:
        key: path relative to the root.
        size: bytes.
        version: changes whenever the file is written (modification time in ns, or an S3 ETag).
    """

    key: str
    size: int
    version: str


class Storage(ABC):
    """A folder of published files: on a local disk, or a prefix in a bucket."""

    uri: str

    @abstractmethod
    def list(self, prefix: str = "") -> list[Entry]:
        """All files below the folder ``prefix``, sorted by key; an empty list if there is none."""

    @abstractmethod
    def stat(self, key: str) -> Entry | None:
        """One file's entry, or None if it is not there."""

    @abstractmethod
    def local(self, key: str) -> Path:
        """A local path to read the file from: itself on a local disk, else a cached copy.

        Raises:
            StorageError: the file is not there or cannot be read.
        """

    @abstractmethod
    def publishing(self, key: str) -> AbstractContextManager[Path]:
        """A local path to write to; on leaving without an error, the file appears whole under ``key``."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove one file; nothing happens if it is not there."""

    @abstractmethod
    def child(self, folder: str) -> "Storage":
        """The storage rooted at a folder below this one."""

    def read(self, key: str) -> bytes:
        """The file's content."""
        return self.local(key).read_bytes()

    def publish_bytes(self, key: str, data: bytes) -> None:
        """Publish ``data`` under ``key`` in one step."""
        with self.publishing(key) as path:
            path.write_bytes(data)

    def sweep(self) -> None:
        """Remove what runs that were killed left behind half-written."""

    def where(self, key: str) -> str:
        """The file's full address, for messages and records."""
        return f"{self.uri.rstrip('/')}/{key}"


class LocalStorage(Storage):
    """A folder on a local disk.

    Half-written files live in ``.partial/<host>-<process>-<n>/`` below the root, on the same file system,
    and are renamed into place.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.uri = str(self.folder)

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)

    @override
    def list(self, prefix: str = "") -> list[Entry]:
        top = self._path(prefix) if prefix else self.folder
        files = (path for path in top.rglob("*") if path.is_file()) if top.is_dir() else ()
        keys = sorted(path.relative_to(self.folder).as_posix() for path in files)
        entries = (self.stat(key) for key in keys if not key.startswith(f"{PARTIAL}/"))
        return [entry for entry in entries if entry is not None]

    @override
    def stat(self, key: str) -> Entry | None:
        try:
            found = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(key, found.st_size, str(found.st_mtime_ns))

    @override
    def local(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise StorageError(f"{path}: no such file")
        return path

    @override
    @contextmanager
    def publishing(self, key: str) -> Iterator[Path]:
        target = self._path(key)
        workplace = self.folder / PARTIAL / f"{socket.gethostname()}-{os.getpid()}-{next(_counter)}"
        partial = workplace / target.name
        try:
            _make_folder(workplace)
            yield partial
            _flush_to_disk(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(target)
        except OSError as error:
            raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(workplace, ignore_errors=True)

    @override
    def remove(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    @override
    def child(self, folder: str) -> "LocalStorage":
        return LocalStorage(self._path(folder))

    @override
    def sweep(self) -> None:
        for workplace in (self.folder / PARTIAL).glob("*"):
            host, process, _ = workplace.name.rsplit("-", 2)
            if host == socket.gethostname() and not _is_alive(int(process)):
                shutil.rmtree(workplace, ignore_errors=True)
        _remove_if_empty(self.folder / PARTIAL)


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """The storage at ``uri``: a local folder."""
    if "://" in str(uri):
        raise InputError(f"{uri}: only local folders can be used")
    return LocalStorage(uri)


def read_file(uri: str) -> bytes:
    """The content of one file, wherever it lies.

    Raises:
        StorageError: it is not there or cannot be read.
    """
    folder, _, name = uri.rpartition("/")
    return open_storage(folder or ("/" if uri.startswith("/") else ".")).read(name)


def checked_key(key: str) -> str:
    """``key``, if it stays below the root.

    Raises:
        InputError: it is absolute, or leads out of the root.
    """
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or "\0" in key or not path.parts:
        raise InputError(f"{key!r} is no valid name for a file: it would lie outside the working root")
    return key


def sha256_of(path: Path) -> str:
    """SHA-256 of a local file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make_folder(folder: Path) -> None:
    """Make ``folder``, though another process may sweep the empty folder above it away in the same moment."""
    for attempt in itertools.count():
        try:
            folder.mkdir(parents=True)
        except FileNotFoundError:
            if attempt == 9:
                raise
        else:
            return


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
