"""The interface of all storage: list, read, publish in one step, exchange, remove; and one listing of a storage."""

import errno
import hashlib
import logging
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from typing_extensions import override

from zssmnet.errors import StorageError, UnreadableFileError

log = logging.getLogger(__name__)

_MAKE_ROOM = ": make room there and run again; what is done is not done again"
_WAYS_OUT = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: ": raise the limit (ulimit -f) or use another file system",
    errno.EROFS: ": name a folder that can be written",
    errno.EACCES: ": give this user the right to, or name another folder",
    errno.EPERM: ": give this user the right to, or name another folder",
    errno.EMFILE: ": raise the limit (ulimit -n)",
    errno.ENOTDIR: ": a file is where a folder is needed; name another folder",
    errno.EEXIST: ": something else has that name, or that of its folder; move it away, or name another folder",
    errno.EISDIR: ": a folder is where a file is needed; move it away",
    errno.EXDEV: ": a folder below it is on another disk, where nothing appears in one step; keep them on one",
    errno.EIO: ": the disk or its connection is damaged; check it",
    errno.ESTALE: ": the network folder was lost; mount it again",
}
"""What the user can do, by the operating system's number of the error."""
_NO_FLUSHING = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY)
_NO_FLUSHING_OF_FOLDERS = (*_NO_FLUSHING, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""What file systems answer that cannot flush a file, or a folder, some network ones among them."""
_noted: set[int] = set()
"""Their devices, as far as the user knows of them."""


@dataclass(frozen=True)
class Entry:
    """A published file as a listing shows it.

    Attributes:
        key: path relative to the root.
        version: changes whenever the file is written: times of modification and of the inode's change, and inode; or an
            S3 ETag. Programs can set the first time back, the second one they cannot.
        modified: when it was written, for people to read: no decision hangs on it.
    """

    key: str
    size: int
    version: str
    modified: datetime


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

    def local_version(self, key: str, size: int, version: str) -> Path:
        """See :meth:`local`, of a file whose entry was just looked at, or is recorded: one request less."""
        return self.local(key)

    @abstractmethod
    def publishing(self, key: str) -> AbstractContextManager[Path]:
        """A local path to write to; on leaving without an error, the file appears whole under ``key``."""

    @abstractmethod
    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        """Write, replace or remove a small file if nobody has changed it: of several that try, one succeeds.

        Args:
            key: the file.
            data: its new content; None removes it.
            version: the version that is replaced (`Entry`); None if there must be no such file.

        Returns:
            The new version, "" for a file that was removed; None if the file did not have that version.
        """

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove one file; nothing happens if it is not there."""

    @abstractmethod
    def child(self, folder: str) -> "Storage":
        """The storage rooted at a folder below this one."""

    def read(self, key: str) -> bytes:
        """The file's content; StorageError if it is not there or cannot be read."""
        path = self.local(key)
        with storage_errors(path, "read"):
            return path.read_bytes()

    def publish_bytes(self, key: str, data: bytes) -> None:
        """Publish ``data`` under ``key`` in one step."""
        with self.publishing(key) as path:
            path.write_bytes(data)

    def sweep(self) -> None:
        """Remove what runs that were killed left behind half-written."""

    def where(self, key: str) -> str:
        """The file's full address, for messages and records."""
        return f"{self.uri.rstrip('/')}/{key}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a local file's content, in hex; UnreadableFileError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableFileError(str(path), f"cannot be read: {error.strerror or error}") from error


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk: a name may outlive them in a power cut.

    Where a file system does not support that, a warning is logged once; OSError where it fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        found = os.fstat(descriptor)
        if error.errno not in (_NO_FLUSHING_OF_FOLDERS if stat.S_ISDIR(found.st_mode) else _NO_FLUSHING):
            raise
        if found.st_dev not in _noted:
            _noted.add(found.st_dev)
            log.warning("%s: flushing is not supported there (%s): check it after a power cut", path, error.strerror)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path, done: str) -> Iterator[None]:
    """The operating system's errors become a StorageError of one line, with the way out."""
    try:
        yield
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0, "")
        raise StorageError(f"{path}: cannot be {done}: {error.strerror or error}{way_out}") from error


class Listed(Storage):
    """A storage, or some of its keys, looked at once; reading, writing and exchanging see what changes later."""

    def __init__(self, storage: Storage, keys: Iterable[str] | None = None) -> None:
        self.uri = storage.uri
        self._storage = storage
        entries = storage.list() if keys is None else map(storage.stat, keys)
        self._entries = {entry.key: entry for entry in entries if entry}

    @override
    def list(self, prefix: str = "") -> list[Entry]:
        below = f"{prefix}/" if prefix else ""
        return [entry for key, entry in self._entries.items() if key.startswith(below)]

    @override
    def stat(self, key: str) -> Entry | None:
        return self._entries.get(key)

    @override
    def local(self, key: str) -> Path:
        if entry := self._entries.get(key):
            return self._storage.local_version(key, entry.size, entry.version)
        raise StorageError(f"{self.where(key)}: no such file")

    @override
    def publishing(self, key: str) -> AbstractContextManager[Path]:
        return self._storage.publishing(key)

    @override
    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        return self._storage.exchange(key, data, version)

    @override
    def remove(self, key: str) -> None:
        self._storage.remove(key)

    @override
    def child(self, folder: str) -> Storage:
        return self._storage.child(folder)
