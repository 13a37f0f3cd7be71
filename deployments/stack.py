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
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from xmlrpc.client import ServerProxy

from deployments.compose import COMPOSE_FILE, IS_INSTALLED
from deployments.local_settings import MARK, SERVER, LocalSettings, StackError, gpus_of_this_machine
from flows.ends import run_to_its_end, say

FOLDER = Path.cwd() / ".service" if IS_INSTALLED else COMPOSE_FILE.parent / ".service"
PORT = 4200
"""The port that `main` asks for."""
READY_S = 600
"""How long a service may take to become ready; the first start of a server makes its database."""
SETUP_S = 600
RUNS_END_S = 60
"""A training in several processes takes up to 45 s to end in order."""
ENDS_S = 120
"""Supervisor waits 60 s for the workers, then for the server, before it kills them."""
_SOCKET_BYTES = 96
"""Systems take 107 bytes, and supervisor adds a number."""


class LocalStack:
    """The stack of one folder.

    Attributes:
        folder: where all of its state lies: database, results, password, logs.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, str] | None = None, port: int | None = None) -> None:
        """Name the folder; nothing is started.

        Args:
            folder: is made at the first start.
            overrides: settings (environment variables) for all services and clients.
            port: the server's port, if it is free at the first start.
        """
        self.folder = folder.absolute()
        self._overrides = overrides or {}
        self._port = port

    @cached_property
    def settings(self) -> LocalSettings:
        """What it is started with."""
        return LocalSettings(self.folder, self._overrides, self._port)

    @property
    def environment(self) -> dict[str, str]:
        """Settings for clients of the service: where it is, and the password; known after the first start."""
        return self.settings.clients()

    def log(self, service: str) -> Path:
        """Where the output of a service goes."""
        return self.folder / "logs" / f"{service}.log"

    def pid(self, service: str) -> int | None:
        """The process id of a service, if it runs."""
        return next((one["pid"] or None for one in self.services() if one["name"] == service), None)

    def services(self) -> list[dict[str, Any]]:
        """What supervisor knows of each service: name, statename, pid, description. Empty if it does not run."""
        supervisor = self._supervisor()
        return supervisor.getAllProcessInfo() if supervisor else []

    def processes(self) -> set[int]:
        """All processes of this stack, also runs and what they have started, even if their worker is gone."""
        wanted = f"{MARK}={self.settings.state.mark}".encode()
        places = Path("/proc").glob("[0-9]*/environ")
        return {int(place.parent.name) for place in places if wanted in _words(place)} - {os.getpid()}

    def start(self, services: Sequence[str] | None = None) -> bool:
        """Start what does not run, each service when those it needs are ready; whether there was anything to start.

        Args:
            services: some of "server", "setup" (which makes pools, deployments and automations), "cpu-worker",
                "gpu-worker"; all if not given.

        Raises:
            StackError: a service does not start or does not become ready; those before it run on.
        """
        with self._alone() as umask:
            if not self._supervisor():
                self._launch(umask)
            elif self.settings.state.folder != str(self.folder):
                raise StackError(
                    f"the service runs, and was moved here from {self.settings.state.folder} meanwhile: stop it with "
                    "'zssmnet-service stop', then start it"
                )
            known = self.services()
            names = [SERVER, "setup", *(one["name"] for one in known if one["name"] != SERVER)]
            missing = {one["name"] for one in known if one["statename"] not in ("RUNNING", "STARTING")}
            missing &= set(services or names)
            for name in names if missing else []:
                if name == "setup" and name in (services or names):
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
            if supervisor := self._supervisor():
                known = {supervisor.getPID(), *(one["pid"] for one in self.services())}
                # they report that they were ended; a worker that gets SIGTERM kills them silently
                _end(lambda: self.processes() - known, signal.SIGTERM, RUNS_END_S)
                supervisor.shutdown()
                _wait_for(lambda: not self.processes(), ENDS_S)
            self._end_left_overs()
            return True

    def _launch(self, umask: int) -> None:
        self._end_left_overs()
        control = self.folder / "supervisor.sock"
        if len(os.fsencode(control)) > _SOCKET_BYTES:
            raise StackError(f"{control}: is longer than {_SOCKET_BYTES} bytes, more than a socket's path may have")
        for note in self.settings.prepare(umask):
            say(f"note: {note}")
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(self.folder / "supervisord.conf")]
        done = subprocess.run(
            command, env=self.settings.environment(), cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode or not _wait_for(lambda: self._supervisor() is not None, ENDS_S):
            words = (done.stderr or done.stdout).strip().splitlines() or ["it does not answer"]
            raise StackError(f"supervisor was not started: {words[-1]} (see {self.log('supervisord')})")

    def _start(self, name: str) -> None:
        supervisor: Any = self._supervisor()
        supervisor.startProcess(name, False)

        def has_failed() -> bool:
            return supervisor.getProcessInfo(name)["statename"] in ("BACKOFF", "EXITED", "FATAL", "STOPPED")

        ready = _wait_for(lambda: has_failed() or self._answers(name), READY_S)
        if not ready or has_failed():
            supervisor.stopProcess(name)
            happened = f"did not become ready in {READY_S} s" if not ready else "ended before it was ready"
            raise StackError(f"{name} {happened}: {_last_line(self.log(name))}")
        say(f"{name} is ready: {self.settings.address(name).removeprefix('http://')}")

    def _set_up(self) -> None:
        command, environment = self.settings.command("setup"), self.settings.environment()
        try:
            with self.log("setup").open("wb") as log:
                done = subprocess.run(
                    command, env=environment, cwd=self.folder, stdout=log, stderr=log, timeout=SETUP_S, check=False
                )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"setup took more than {SETUP_S} s: {_last_line(self.log('setup'))}") from error
        if done.returncode:
            raise StackError(f"setup failed: {_last_line(self.log('setup'))}")
        say("setup is done")

    def _answers(self, name: str) -> bool:
        page = "/api/ready" if name == SERVER else "/health"
        try:
            with urllib.request.urlopen(f"{self.settings.address(name)}{page}", timeout=5):
                return True
        except OSError:
            return False

    def _supervisor(self) -> Any:
        """The interface of this stack's supervisor; None if it does not run."""
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(serverurl=f"unix://{self.folder / 'supervisor.sock'}")
        supervisor = ServerProxy("http://localhost", transport).supervisor
        try:
            supervisor.getState()
        except OSError:
            return None
        return supervisor

    def _end_left_overs(self) -> None:
        """End what no supervisor knows, such as runs whose worker was killed."""
        if not any(_end(self.processes, signal_, ENDS_S) for signal_ in (signal.SIGTERM, signal.SIGKILL)):
            raise StackError(f"processes of the service do not end: {', '.join(map(str, self.processes()))}")

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
            raise StackError(f"{error.filename or self.folder}: {error.strerror or error}") from error
        finally:
            os.umask(umask)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="zssmnet-service", description="Prefect's server and workers as processes of this machine."
    )
    parser.add_argument("command", choices=("start", "stop", "status"))
    command = {"start": _start, "stop": _stop, "status": _status}[parser.parse_args(arguments).command]
    status = 0

    def work() -> None:
        nonlocal status
        status = command(LocalStack(FOLDER, port=PORT))

    return run_to_its_end(work) or status


def _start(stack: LocalStack) -> int:
    for note in _notes(stack):
        say(f"note: {note}")
    if not stack.start():
        say("the service is already running")
    folder = stack.folder
    say(
        "",
        f"Prefect's pages:    {stack.settings.address(SERVER)}",
        f"user:password       {stack.environment['PREFECT_API_AUTH_STRING']} (into the one field of the login)",
        f"for the shell:      . {_short(folder / 'env')}",
        f"logs:               {_short(folder / 'logs')}",
        "stop it:            zssmnet-service stop",
    )
    return 0


def _notes(stack: LocalStack) -> Iterator[str]:
    if os.geteuid() == 0:
        yield "started as root: every run has root's rights; better start it as a user who owns archive and roots"
    if not gpus_of_this_machine():
        yield "no NVIDIA GPU found: the worker of the pool gpu trains on the CPU"
    if (old := stack.folder / "postgres").exists() and not stack.settings.state.database:
        yield f"{old} is the database of an earlier version and not used: see Upgrade in docs/operations.md"


def _stop(stack: LocalStack) -> int:
    say("the service has ended" if stack.stop() else "the service is not running")
    return 0


def _status(stack: LocalStack) -> int:
    services = stack.services()
    for one in services:
        say(f"{one['name']:<12} {one['statename'].lower():<9} {one['description']}")
    runs = bool(services) and all(one["statename"] == "RUNNING" for one in services)
    say("all services are running" if runs else "start what is not running with 'zssmnet-service start'")
    return 0 if runs else 1


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _last_line(log: Path) -> str:
    """The last line of a program's log, with the place of the rest."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1] if lines else 'it printed nothing'} (see {log})"


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
            try:
                if _parent(process) not in there:
                    os.kill(process, signal_)
                    signalled.add(process)
            except OSError:  # it has ended
                continue
        return not there

    return _wait_for(gone, timeout_s)


def _parent(process: int) -> int:
    # the name of the program stands in brackets and may contain anything, brackets and blanks included
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def _words(place: Path) -> list[bytes]:
    try:
        return place.read_bytes().split(b"\0")
    except OSError:  # it has ended, or is another user's
        return []


if __name__ == "__main__":
    sys.exit(main())
