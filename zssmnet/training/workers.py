"""The worker processes that rank 0 starts, one for each further GPU.

No worker outlives rank 0: its standard input is a pipe from there, which closes when rank 0 ends, however it ends.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

from zssmnet.errors import TrainingError
from zssmnet.storage.keys import printable

_LAST_LINES_BYTES = 2000
_END_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Worker:
    """A process that trains along."""

    rank: int
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]

    def last_line(self) -> str:
        """The last line that it wrote."""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - _LAST_LINES_BYTES))
        lines = self.log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


@contextmanager
def started_worker(rank: int, module: str, *arguments: str) -> Iterator[Worker]:
    """A worker that runs a module, with this process's module path but not the current folder; ends on leaving."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # an interrupt from the terminal is for rank 0
        )
        try:
            yield Worker(rank, process, log)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def end_with_rank_0() -> None:
    """In a worker: end this process when rank 0 ends."""

    def end_with_standard_input() -> None:
        while os.read(sys.stdin.fileno(), 1024):  # not sys.stdin.read(), whose lock would abort an orderly end
            pass
        os._exit(1)

    threading.Thread(target=end_with_standard_input, daemon=True).start()


def check_workers(workers: Sequence[Worker]) -> None:
    """Raise a TrainingError if a worker has ended, which none does before rank 0 is done."""
    for worker in workers:
        if (status := worker.process.poll()) is not None:
            name = f" ({signal.Signals(-status).name})" if status < 0 else ""
            raise TrainingError(
                f"worker rank {worker.rank} of {len(workers) + 1} exited with status {status}{name}: "
                f"{printable(worker.last_line())}; run it again to continue from the last checkpoint"
            )
