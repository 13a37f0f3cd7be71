"""Processes that outlive the command that started them: found again, known for one's own, and ended to the last.

A process id alone does not identify a process, since ids are given out anew after a while: the start time is kept
with it. And every process that a service starts, however deep and in whatever session (a worker gives each flow run one
of its own), inherits a mark in its environment, by which it is found even when its parent has ended. Both are read from
Linux's /proc.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from zssmnet.errors import ZssmnetError

MARK = "ZSSMNET_SERVICE"
_PROC = Path("/proc")
_POLL_S = 0.1
_started: "list[subprocess.Popen[bytes]]" = []
"""Kept, so that those which end are not left as zombies while this process lives."""


class StackError(ZssmnetError):
    """A service that cannot be started or does not become ready."""


@dataclass(frozen=True)
class Process:
    """One process, for good: no other will have the same id and start time on the same boot of the machine."""

    pid: int
    started: int
    boot: str
    parent: int = field(compare=False)  # changes when the parent ends

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """The process that has this id now, if there is one that runs."""
        _reap()
        try:
            # the name of the program stands in brackets and may hold anything, brackets and spaces included
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        state, started = fields[0], int(fields[19])
        return None if state in "ZX" else cls(pid, started, boot, parent=int(fields[1]))

    @classmethod
    def read(cls, path: Path) -> "Process | None":
        """The process that was written there, if it still runs."""
        try:
            process = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return process if process.runs else None

    def write(self, path: Path) -> None:
        """Keep it for another command."""
        path.write_text(json.dumps(asdict(self)))

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return Process.of(self.pid) == self

    def send(self, signal_: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.runs:
            os.kill(self.pid, signal_)


def start(
    command: Sequence[str], environment: Mapping[str, str], mark: str, log: Path, folder: Path, user: str | None = None
) -> Process:
    """Start a process of its own session, which neither a closed terminal nor an interrupt there ends.

    Raises:
        StackError: no such program, one that may not be run, or one that ends at once.
    """
    with log.open("ab") as output, _open_to_interrupts():
        try:
            child = subprocess.Popen(
                command,
                env={**environment, MARK: mark},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=user and _group_of(user),
                extra_groups=None if user is None else (),
            )
        except OSError as error:
            raise StackError(f"{command[0]}: cannot be started: {error}") from error
    _started.append(child)
    process = Process.of(child.pid)
    if process is None:
        raise StackError(f"{command[0]} ended at once: {last_words(log)}")
    return process


def last_words(log: Path) -> str:
    """The last line of a program's log, with the place of the rest."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it printed nothing'} (see {log})"


def marked(mark: str) -> list[Process]:
    """All processes with this mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # has ended, or is another user's
            continue
        if wanted in environment.split(b"\0") and (process := Process.of(int(folder.name))):
            found.append(process)
    return found


def roots(processes: Collection[Process]) -> list[Process]:
    """Those of the processes whose parent is not among them."""
    ids = {process.pid for process in processes}
    return [process for process in processes if process.parent not in ids]


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def end(processes: Callable[[], list[Process]], signal_: signal.Signals, timeout_s: float) -> bool:
    """Ask all of them to end, also those that come up meanwhile; whether all had ended in time."""
    signalled: set[Process] = set()

    def gone() -> bool:
        there = processes()
        for process in set(there) - signalled:
            process.send(signal_)
            signalled.add(process)
        return not there

    return wait_for(gone, timeout_s)


@contextmanager
def _open_to_interrupts() -> Iterator[None]:
    """What a script starts in its background is deaf to SIGINT, and so is all that it starts in its turn.

    Prefect's server and workers turn a SIGTERM into a SIGINT for themselves: deaf to it, they would never end.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _reap() -> None:
    _started[:] = [child for child in _started if child.poll() is None]


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid
