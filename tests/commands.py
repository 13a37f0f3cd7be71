"""Commands in processes of their own, forked from one that has imported the program: importing takes seconds each time.

A forked command has a process number, a session, an environment and output of its own, can be killed, and ends as any
program does. Two things are those of the process from which it was forked: ``/proc/<pid>/environ``, and what the
program chooses when it is imported, which is whether tasks run on Dask.
"""

import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PLAIN = ("torch._dynamo", "zssmnet.stages.retrain", "zssmnet.stages.pipeline", "zssmnet.phantom", "flows.commands")
FLOWS = (*PLAIN, "flows.of_stages", "flows.on_server")


class Command:
    """A command that was started: what tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self._folder = folder

    def poll(self) -> int | None:
        """The exit status, negative after a signal; None while it runs."""
        status = self._folder / "status"
        return int(status.read_text()) if status.exists() else None

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for its end; what it printed."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < deadline, f"it did not end within {timeout} s"
            time.sleep(0.02)
        return (self._folder / "out").read_text(), (self._folder / "err").read_text()

    @property
    def returncode(self) -> int:
        """The exit status of a command that has ended."""
        status = self.poll()
        assert status is not None
        return status


class Commands:
    """Starts commands until it is closed: plain ones, or flows on a Prefect server.

    Args:
        api: the server's address; None for plain commands.
    """

    def __init__(self, api: str | None = None) -> None:
        self.are_flows = api is not None
        self._environment = {"OMP_NUM_THREADS": "1"} | ({"PREFECT_API_URL": api} if api else {})
        self._folder = Path(tempfile.mkdtemp(prefix="zssmnet-commands-"))
        self._count = 0
        self._forking = subprocess.Popen(
            [sys.executable, "-m", "tests.commands", *(FLOWS if api else PLAIN)],
            env=os.environ | self._environment,
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, module: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Command:
        """Start a module's ``main`` with these words on its command line."""
        assert self._forking.stdin and self._forking.stdout
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        environment = {**os.environ, **self._environment, **(environment or {})}
        order = {"module": module, "words": [*words], "environment": environment, "folder": str(folder)}
        self._forking.stdin.write(json.dumps(order) + "\n")
        self._forking.stdin.flush()
        return Command(int(self._forking.stdout.readline()), folder)

    def close(self) -> None:
        """Wait for all commands, and remove what they printed."""
        self._forking.communicate()
        shutil.rmtree(self._folder)


def serve() -> None:
    """Fork a command for each line of the standard input."""
    gc.disable()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    assert threading.active_count() == 1
    for line in sys.stdin:
        order = json.loads(line)
        if os.fork() == 0:
            if (pid := os.fork()) == 0:
                return run(**order)
            print(pid, flush=True)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            new = Path(order["folder"], "new")
            new.write_text(str(status))
            new.rename(new.with_name("status"))
            os._exit(0)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return None


def run(module: str, words: list[str], environment: dict[str, str], folder: str) -> None:
    """Become the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored by what is started in the background
    for number, path in enumerate((os.devnull, f"{folder}/out", f"{folder}/err")):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.argv[1:] = words
    importlib.import_module(module).main()


if __name__ == "__main__":
    serve()
