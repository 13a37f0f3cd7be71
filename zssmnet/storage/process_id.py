"""Names of files and folders that identify the process which made them, and whether it still runs."""

import hashlib
import itertools
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_RUN = secrets.token_hex(4)
"""Distinguishes this process from an earlier one with the same number, as in a container that was restarted."""
_counter = itertools.count()
_NAME = re.compile(r"(?P<host>.*)-(?P<place>[0-9a-f]{8})-(?P<process>\d{1,9})-(?P<run>[0-9a-f]{8})")


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: name of its machine or container.
        place: where its number means something: the same boot of a machine, the same space of process numbers.
        run: drawn anew by each process.
    """

    host: str
    place: str
    process: int
    run: str

    def __str__(self) -> str:
        return f"{self.host}-{self.place}-{self.process}-{self.run}"

    @classmethod
    def parse(cls, name: str) -> "Owner | None":
        """The owner of this name; None if it is no such name."""
        found = _NAME.fullmatch(name)
        return cls(found["host"], found["place"], int(found["process"]), found["run"]) if found else None

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine and in this space of process numbers, so that its number has a meaning here."""
        here = this_process()
        return (self.host, self.place) == (here.host, here.place)

    @property
    def has_gone(self) -> bool:
        """Whether the process has ended for certain; of those elsewhere, nothing is known."""
        if not self.is_here:
            return False
        if self.process == os.getpid():
            return self.run != _RUN
        try:
            os.kill(self.process, 0)
        except OSError as error:  # PermissionError: it is another user's
            return isinstance(error, ProcessLookupError)
        return False


def new_name() -> str:
    """A new name for a file or folder of this process; `sweep` removes it once the process has ended."""
    return f"{this_process()}-{next(_counter)}"


def sweep(folder: Path, prefix: str = "", is_abandoned: Callable[[Path], bool] = lambda path: False) -> None:
    """Remove the folders below ``folder`` whose names, after a prefix, are those of processes that have ended.

    Args:
        is_abandoned: whether to remove one of a process of which nothing is known, or which is still alive.
    """
    paths: list[Path] = []
    with suppress(FileNotFoundError):  # another removes the folder, which is empty, in the same moment
        paths += folder.glob(f"{prefix}*")
    for path in paths:
        owner = Owner.parse(path.name.removeprefix(prefix).rpartition("-")[0])
        if owner and (owner.has_gone or is_abandoned(path)):
            shutil.rmtree(path, ignore_errors=True)


def this_process() -> Owner:
    """The process that asks."""
    return Owner(socket.gethostname(), _place(), os.getpid(), _RUN)


@cache
def _place() -> str:
    """Containers of one machine may share its name, but not its process numbers; other systems have no such files."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        identity = ""
    return hashlib.sha256(identity.encode()).hexdigest()[:8]
