"""The whole service as processes of this machine, where no container engine is at hand: ``zssmnet-service``.

The processes are supervisor's (http://supervisord.org): it starts and stops them, restarts what dies and rotates logs.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

from deployments.backup import back_up, restore
from deployments.compose import COMPOSE_FILE, IS_INSTALLED
from deployments.local_settings import MARK, SERVER, SETUP, STATE, LocalSettings, StackError, gpus_of_this_machine
from flows.exit_handling import run_to_its_end, say

FOLDER = Path.cwd() / ".service" if IS_INSTALLED else COMPOSE_FILE.parent / ".service"
PORT = 4200
"""The port that `main` asks for."""
READY_S = 600
"""How long a service may take to become ready; the first start of a server makes its database."""
RUNS_END_S = 60
"""A training in several processes takes up to 45 s to end in order."""
ENDS_S = 120
"""Supervisor waits 60 s for the workers, then for the server, before it kills them."""


class LocalStack:
    """The stack of one folder; nothing is started before `start`.

    Args:
        folder: where all of its state lies: database, results, password, logs; is made at the first start.
        overrides: settings (environment variables) for all services and clients.
        port: the server's port, if it is free at the first start.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, str] | None = None, port: int | None = None) -> None:
        self.folder = folder.absolute()
        self._overrides = overrides or {}
        self._port = port

    @cached_property
    def settings(self) -> LocalSettings:
        """Settings of the stack."""
        return LocalSettings(self.folder, self._overrides)

    @property
    def environment(self) -> dict[str, str]:
        """Settings for clients of the service: where it is, and the password; known after the first start."""
        return self.settings.clients()

    def services(self) -> dict[str, dict[str, Any]]:
        """Supervisor's state of each service: statename, pid, description. Empty if it does not run."""
        return {one["name"]: one for one in self._supervisor("getAllProcessInfo") or ()}

    def processes(self) -> set[int]:
        """All processes of this stack, also runs and what they have started, even if their worker is gone."""
        wanted, found = f"{MARK}={self.settings.state.mark}".encode(), set[int]()
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended, or is another user's
                if wanted in environ.read_bytes().split(b"\0"):
                    found.add(int(environ.parent.name))
        return found - {os.getpid()}

    def start(self, services: Sequence[str] | None = None) -> bool:
        """Start what does not run, each service when those it needs are ready; whether there was anything to start.

        Args:
            services: some of "server", "setup" (which makes pools, deployments and automations), "cpu-worker",
                "gpu-worker"; all if not given.

        Raises:
            StackError: a service does not start or does not become ready; those before it run on.
        """
        with self._alone() as umask:
            if not self._supervisor("getPID"):
                self._launch(umask)
            elif self.settings.state.folder != str(self.folder):
                raise StackError(
                    f"the service runs, and was moved here from {self.settings.state.folder} meanwhile: stop it with "
                    "'zssmnet-service stop', then start it"
                )
            states = {name: one["statename"] for name, one in self.services().items()}
            wanted = [one for one in dict.fromkeys((SERVER, SETUP, *states)) if services is None or one in services]
            missing = [name for name in wanted if states.get(name) in ("STOPPED", "EXITED", "FATAL")]
            for name in wanted if missing else []:
                if name == SETUP:
                    self._set_up()
                elif name in missing:
                    self._start(name)
            return bool(missing)

    def stop(self) -> bool:
        """End all, with every process they started; whether anything was running.

        Raises:
            StackError: something did not end.
        """
        if not self.folder.exists():
            return False
        with self._alone():
            if not self.processes():
                return False
            if supervisor := self._supervisor("getPID"):
                known = {supervisor, *(one["pid"] for one in self.services().values())}
                # they report that they were ended; a worker that gets SIGTERM kills them silently
                _end(lambda: self.processes() - known, signal.SIGTERM, RUNS_END_S)
                self._supervisor("shutdown")
                _wait_for(lambda: not self.processes() & known, ENDS_S)
            self._end_left_overs()
            return True

    def back_up(self, file: Path) -> None:
        """Write database and password to a file; see `deployments.backup.back_up`."""
        if not (self.folder / STATE).exists():
            raise StackError(f"{self.folder}: there is no service to back up; start one with 'zssmnet-service start'")
        with self._alone():
            back_up(self.folder, file)

    def restore(self, file: Path) -> None:
        """Make a backup the service of this folder; see `deployments.backup.restore`."""
        with self._alone():
            restore(self.folder, file)
        self.__dict__.pop("settings", None)  # of before

    def _launch(self, umask: int) -> None:
        self._end_left_overs()
        for note in self.settings.prepare(self._port, umask):
            say(f"note: {note}")
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
        if self._run(command, "supervisord") or not _wait_for(lambda: self._supervisor("getPID"), ENDS_S):
            raise StackError(f"supervisor was not started: {self._last_line('supervisord')}")

    def _start(self, name: str) -> None:
        self._supervisor("startProcess", name, False)
        first = self.services()[name]["pid"]

        def died() -> bool:
            return not first or self.services()[name]["pid"] != first

        def is_ready() -> bool:
            return self.services()[name]["statename"] == "RUNNING" and (name != SERVER or self._answers())

        ready = _wait_for(lambda: died() or is_ready(), READY_S)
        if not ready or died():
            self._supervisor("stopProcess", name)
            happened = "exited before it was ready" if ready else f"did not become ready in {READY_S} s"
            raise StackError(f"{name} {happened}: {self._last_line(name)}")
        say(f"{name} is running")

    def _set_up(self) -> None:
        if self._run(self.settings.command(SETUP), SETUP):
            raise StackError(f"setup failed: {self._last_line(SETUP)}")
        say("setup is done")

    def _run(self, command: list[str], name: str) -> int:
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            return subprocess.run(
                command, env=self.settings.environment(), cwd=self.folder, stdout=log, stderr=log, check=False
            ).returncode

    def _last_line(self, name: str) -> str:
        log = self.folder / "logs" / f"{name}.log"
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        said = [line for line in lines if line and not line.startswith("For help, use ")]  # supervisor's last line
        return f"{said[-1] if said else 'it printed nothing'} (see {log})"

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.settings.address}/api/ready", timeout=5):
            return True
        return False

    def _supervisor(self, method: str, *arguments: Any) -> Any:
        """Answer of this stack's supervisor to a call of its interface; None if it does not run."""
        from supervisor.xmlrpc import SupervisorTransport

        address = f"unix://{self.folder / 'supervisor.sock'}"
        with closing(SupervisorTransport(serverurl=address)) as transport, suppress(OSError):
            return getattr(ServerProxy("http://localhost", transport).supervisor, method)(*arguments)
        return None

    def _end_left_overs(self) -> None:
        """End what no supervisor knows, such as runs whose worker was killed."""
        if not any(_end(self.processes, signal_, ENDS_S) for signal_ in (signal.SIGTERM, signal.SIGKILL)):
            raise StackError(f"processes of the service do not exit: {', '.join(map(str, self.processes()))}")

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Lock the folder, of which nothing is open to other users: of two commands at a time, the second waits.

        Gives the umask of whoever started the command.
        """
        umask = os.umask(0o077)
        try:
            for name in (".", "logs", "prefect", "cache", "results"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                (self.folder / name).chmod(0o700)
            with (self.folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield umask
        except OSError as error:
            reason = "is not a folder" if isinstance(error, FileExistsError) else error.strerror or error
            raise StackError(f"{error.filename or self.folder}: {reason}") from error
        finally:
            os.umask(umask)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="zssmnet-service", description="Prefect's server and workers as processes of this machine."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (run, help) in _COMMANDS.items():
        command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        command.set_defaults(run=run)
        if name in ("backup", "restore"):
            command.add_argument("file", metavar="FILE", type=lambda name: Path(name).absolute())
    options = parser.parse_args(arguments)
    return run_to_its_end(lambda: options.run(LocalStack(FOLDER, port=PORT), options))


def _start(stack: LocalStack, options: argparse.Namespace) -> None:
    for note in _notes(stack):
        say(f"note: {note}")
    if not stack.start():
        say("the service is already running")
    say(
        "",
        f"Prefect's pages:   {stack.settings.address}",
        f"user:password      {stack.environment['PREFECT_API_AUTH_STRING']} (into the one field of the login)",
        f"for the shell:     . {stack.folder}/env",
        f"logs:              {stack.folder}/logs",
        "stop it:           zssmnet-service stop",
    )


def _notes(stack: LocalStack) -> Iterator[str]:
    if os.geteuid() == 0:
        yield "started as root: every run has root's rights; better start it as a user who owns archive and roots"
    if not gpus_of_this_machine():
        yield "no NVIDIA GPU found: the worker of the pool gpu trains on the CPU"
    if (old := stack.folder / "postgres").exists() and not stack.settings.state.database:
        yield f"{old} is the database of an earlier version and not used: see 'Upgrade' in docs/operations.md"


def _stop(stack: LocalStack, options: argparse.Namespace) -> None:
    say("the service is stopped" if stack.stop() else "the service is not running")


def _status(stack: LocalStack, options: argparse.Namespace) -> int:
    services = stack.services()
    for name, one in services.items():
        say(f"{name:<12} {one['statename'].lower():<9} {one['description']}")
    runs = bool(services) and all(one["statename"] == "RUNNING" for one in services.values())
    say("all services are running" if runs else "start what is not running with 'zssmnet-service start'")
    return 0 if runs else 1


def _back_up(stack: LocalStack, options: argparse.Namespace) -> None:
    stack.back_up(options.file)
    say(f"{options.file}: {options.file.stat().st_size:,} bytes; it contains the password; archive and roots are yours")


def _restore(stack: LocalStack, options: argparse.Namespace) -> None:
    stack.restore(options.file)
    say(f"{stack.folder} is restored; put archive and roots where they were, then 'zssmnet-service start'")


def _test_message(stack: LocalStack, options: argparse.Namespace) -> None:
    if not os.environ.get("PREFECT_API_URL"):
        if not (stack.folder / "env").exists():
            raise StackError(f"{stack.folder}: there is no service, and PREFECT_API_URL names no server")
        os.environ.update(stack.environment)
    from deployments.messages import send_test_message  # Prefect reads the environment when it is imported

    say(send_test_message())


_COMMANDS = {
    "start": (_start, "start what does not run"),
    "stop": (_stop, "end everything, runs included; they continue after the next start"),
    "status": (_status, "list the processes; exits with 1 if one does not run"),
    "test-message": (_test_message, "send a message to people by the way of all others"),
    "backup": (_back_up, "write database and password to one file, also while runs are under way"),
    "restore": (_restore, "make a backup the service of this folder, which has none"),
}


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _end(processes: Callable[[], set[int]], signal_: signal.Signals, timeout_s: float) -> bool:
    """Ask processes to end, and those that come up meanwhile, but not their children; whether all ended in time."""
    signalled: set[int] = set()

    def gone() -> bool:
        there = processes()
        for process in there - signalled:
            with suppress(OSError):  # it has ended
                # the name of the program stands in brackets and may contain anything, brackets and blanks included
                parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) not in there:
                    os.kill(process, signal_)
                    signalled.add(process)
        return not there

    return _wait_for(gone, timeout_s)


if __name__ == "__main__":
    sys.exit(main())
