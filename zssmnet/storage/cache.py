"""A bounded local cache of files that lie elsewhere."""

import fcntl
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zssmnet.storage.environment import variable
from zssmnet.storage.interface import flush_to_disk
from zssmnet.storage.process_id import new_name, sweep

FOLDER = "ZSSMNET_CACHE"
WAIT_S = 900.0
"""For another process that fetches the same file; then it is fetched here, too."""
SPARED_S = 600
"""Files used within so many seconds are never removed: somebody may be about to open them."""
_LOOK_EVERY_S = 30
_POLL_INTERVAL_S = 0.1


class Cache:
    """Copies of remote files, by address and version; the least recently used ones go when it grows too large.

    Args:
        folder: where the copies lie; several processes may share it.
        limit_bytes: how large it may grow. Files in use for the last ten minutes stay beyond it.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._last_look = -math.inf

    @classmethod
    def from_environment(cls) -> "Cache":
        """The cache of ``ZSSMNET_CACHE`` and ``ZSSMNET_CACHE_GB``; ConfigError if one of them is wrong."""
        return cls(variable(FOLDER), int(variable("ZSSMNET_CACHE_GB") * 1e9))

    def get(self, address: str, version: str, fetch: Callable[[Path], None]) -> Path:
        """The local copy of a file, fetched if it is not there; its name is the last part of the address.

        Of this machine's processes that lack it one fetches; the others wait, and find it. If it fails or ends, the
        next one fetches.
        """
        place = hashlib.sha256(f"{address}\0{version}".encode()).hexdigest()
        copy = self.folder / "files" / place / address.rpartition("/")[2]
        if _touched(copy):
            return copy
        with _locked(copy.parent):
            if not _touched(copy):
                with self.workplace() as folder:
                    partial = folder / copy.name
                    fetch(partial)
                    flush_to_disk(partial)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    partial.replace(copy)
        if time.monotonic() - self._last_look > _LOOK_EVERY_S:
            self._last_look = time.monotonic()
            self.trim()
        return copy

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A new folder for files that are being written."""
        folder = self.folder / "partial" / new_name()
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the folders of processes that were killed while they wrote."""
        sweep(self.folder / "partial")

    def trim(self) -> None:
        """Remove the least recently used copies until the cache keeps its limit."""
        used = []
        for place in (self.folder / "files").glob("*"):
            with suppress(FileNotFoundError, NotADirectoryError):  # another process was quicker; a foreign file
                for copy in place.iterdir():
                    found = copy.stat()
                    used.append((found.st_mtime, found.st_size, copy))
        excess = sum(size for _, size, _ in used) - self.limit_bytes
        for last_use, size, copy in sorted(used):
            if excess <= 0 or time.time() - last_use < SPARED_S:
                return
            shutil.rmtree(copy.parent, ignore_errors=True)
            excess -= size


def _touched(copy: Path) -> bool:
    """Whether a copy is there; from now on nobody removes it."""
    try:
        os.utime(copy)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder of a copy, which a process cannot outlive."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_POLL_INTERVAL_S)
            except OSError:  # a file system without such locks
                break
        yield
    finally:
        os.close(handle)
