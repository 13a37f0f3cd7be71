"""The whole service as processes of this machine, where no container engine is at hand: ``zssmnet-service``.

Commands and settings come from docker-compose.yml; only addresses and folders differ. Two of its services are left out:
Redis, since the server runs its background services itself here (without ``--no-services``), and the S3 gateway, in
whose place stands moto's, or the storage that ``AWS_ENDPOINT_URL`` names.
"""

import argparse
import fcntl
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deployments import processes
from deployments.compose import COMPOSE_FILE, IS_INSTALLED
from deployments.places import Places
from deployments.processes import Process, StackError, wait_for
from zssmnet.errors import ZssmnetError

FOLDER = Path.cwd() / ".service" if IS_INSTALLED else COMPOSE_FILE.parent / ".service"
STEPS = ("postgres", "s3", "server", "setup", "cpu-worker", "gpu-worker")
"""In the order of starting."""
SERVICES = tuple(step for step in STEPS if step != "setup")
"""What runs on; the step ``setup`` ends by itself."""
WORKERS = ("cpu-worker", "gpu-worker")
PORTS = {"server": 4200}
"""Ports that `main` asks for."""
READY_S = 600
"""How long a service may take to become ready; the first start of a server makes its database."""
SETUP_S = 600
RUNS_END_S = 60
"""A training in several processes takes up to 45 s to end in order."""
ENDS_S = 30


class LocalStack:
    """The stack of one folder.

    Attributes:
        folder: where all of its state lies: database, passwords, logs, process ids.
    """

    def __init__(
        self, folder: Path, overrides: Mapping[str, str] | None = None, ports: Mapping[str, int] | None = None
    ) -> None:
        """Name the folder; nothing is started.

        Args:
            folder: is made at the first use.
            overrides: settings (environment variables) for all services and clients.
            ports: a port for a service (one of `SERVICES`), taken if it is free at the first use.
        """
        self.folder = folder.absolute()
        self.places = Places(self.folder, overrides or {}, ports or {})

    @property
    def environment(self) -> dict[str, str]:
        """Settings for clients of the service: where it is, and the keys to it."""
        return self.places.clients()

    def log(self, service: str) -> Path:
        """Where the output of a service goes."""
        return self.folder / "logs" / f"{service}.log"

    def pid(self, service: str) -> int | None:
        """The process id of a service, if it runs."""
        process = self._process(service)
        return process.pid if process else None

    def services(self) -> list[str]:
        """The services of this stack, in the order of starting: not PostgreSQL or S3 where others serve."""
        absent = {"postgres": self.places.cluster is None, "s3": self.places.foreign_s3 is not None}
        return [name for name in SERVICES if not absent.get(name)]

    def start(self, services: Sequence[str] | None = None) -> bool:
        """Start what does not run, each when the one before is ready; whether there was anything to start.

        Args:
            services: some of `STEPS`; all if not given. The step "setup" is done if any of the others was started.

        Raises:
            StackError: a service does not start or does not become ready; those before it run on.
        """
        with self._alone():
            steps = [step for step in STEPS if services is None or step in services]
            missing = [name for name in self.services() if name in steps and self.pid(name) is None]
            for step in steps if missing else []:
                if step == "setup":
                    self._set_up()
                elif step in missing:
                    self._start(step)
            return bool(missing)

    def stop(self) -> bool:
        """End all, in reverse order, with every process they started; whether anything was running.

        Raises:
            StackError: something did not end.
        """
        if not self.folder.exists():
            return False
        with self._alone():
            ended = [self._end(name) for name in reversed(SERVICES)]
            return any(ended)

    def _start(self, name: str) -> None:
        if name == "postgres" and self.places.cluster:
            self.places.cluster.make(self.places.database_password)
        self.places.take_port(name)
        process = processes.start(
            self.places.command(name),
            environment=self.places.environment(name),
            mark=self._mark(name),
            log=self.log(name),
            folder=self.folder,
            user=self.places.user(name),
        )
        process.write(self._pid_file(name))
        ready = wait_for(lambda: not process.runs or self._answers(name), READY_S)
        if not process.runs:
            raise StackError(f"{name} ended before it was ready: {processes.last_words(self.log(name))}")
        if not ready:
            raise StackError(f"{name} did not become ready in {READY_S} s: {processes.last_words(self.log(name))}")
        self.places.write_environment()
        print(f"{name} is ready: {self.places.address(name).removeprefix('http://')}")

    def _set_up(self) -> None:
        command, settings = self.places.command("setup"), self.places.environment("setup")
        try:
            with self.log("setup").open("ab") as log:
                done = subprocess.run(
                    command, env=settings, cwd=self.folder, stdout=log, stderr=log, timeout=SETUP_S, check=False
                )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"setup took more than {SETUP_S} s: {processes.last_words(self.log('setup'))}") from error
        if done.returncode:
            raise StackError(f"setup failed: {processes.last_words(self.log('setup'))}")
        print("setup is done")

    def _end(self, name: str) -> bool:
        """End a service with all it started: a worker's runs first, then the service itself, then whatever is left."""

        def itself() -> list[Process]:
            return [process] if (process := self._process(name)) else []

        def everything() -> list[Process]:
            return list({*itself(), *processes.marked(self._mark(name))})

        def runs() -> list[Process]:
            return processes.roots({*everything()} - {*itself()})

        if not everything():
            return False
        if name in WORKERS:  # they report that they were ended; a worker that gets SIGTERM kills them silently
            processes.end(runs, signal.SIGTERM, RUNS_END_S)
        # at SIGTERM PostgreSQL would wait for its clients
        processes.end(itself, signal.SIGINT if name == "postgres" else signal.SIGTERM, ENDS_S)
        ended = processes.end(everything, signal.SIGTERM, ENDS_S) or processes.end(everything, signal.SIGKILL, ENDS_S)
        if not ended:
            raise StackError(f"{name} does not end: process {everything()[0].pid}")
        self._pid_file(name).unlink(missing_ok=True)
        print(f"{name} has ended")
        return True

    def _answers(self, name: str) -> bool:
        if name == "postgres":
            return bool(self.places.cluster and self.places.cluster.answers(self.places.port(name)))
        page = {"s3": "/moto-api/", "server": "/api/ready"}.get(name, "/health")
        try:
            with urllib.request.urlopen(f"{self.places.address(name)}{page}", timeout=5):
                return True
        except OSError:
            return False

    def _process(self, name: str) -> Process | None:
        return Process.read(self._pid_file(name))

    def _pid_file(self, name: str) -> Path:
        return self.folder / "pids" / f"{name}.json"

    def _mark(self, name: str) -> str:
        return f"{self.folder}:{name}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder: of two commands at a time, the second waits."""
        self.places.make_folders("logs", "pids", "prefect")
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="zssmnet-service", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("start", "stop", "status"))
    command = parser.parse_args(arguments).command
    stack = LocalStack(FOLDER, ports=PORTS)
    try:
        return {"start": _start, "stop": _stop, "status": _status}[command](stack)
    except ZssmnetError as error:
        print(f"zssmnet: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; 'zssmnet-service stop' ends what runs, 'zssmnet-service start' goes on", file=sys.stderr)
        return 130


def _start(stack: LocalStack) -> int:
    for warning in _warnings(stack):
        print(f"note: {warning}")
    if not stack.start():
        print("the service runs already")
    address, folder = stack.places.address("server"), stack.folder
    print(
        f"\nPrefect's pages:    {address}\n"
        f"user and password:  {stack.environment['PREFECT_API_AUTH_STRING']}\n"
        f"for the shell:      . {_short(folder / 'env')}\n"
        f"logs:               {_short(folder / 'logs')}\n"
        "end it:             zssmnet-service stop"
    )
    return 0


def _warnings(stack: LocalStack) -> Iterator[str]:
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        yield "no NVIDIA GPU is to be seen: the worker of the pool gpu trains on the CPU"
    if stack.places.cluster is None:
        yield (
            "PostgreSQL is not installed, so SQLite serves: it locks when several runs work at a time; "
            "install PostgreSQL (Debian: apt install postgresql)"
        )
    elif stack.places.cluster.data.parent != stack.folder:
        data = stack.places.cluster.data
        yield f"PostgreSQL does not run as root and cannot enter {stack.folder}: it keeps its files in {data}"
    if stack.places.foreign_s3 is None:
        yield "S3 is moto's, for trying out: it keeps all in memory. Set AWS_ENDPOINT_URL and the keys for a real one"


def _stop(stack: LocalStack) -> int:
    if not stack.stop():
        print("nothing was running")
    return 0


def _status(stack: LocalStack) -> int:
    services = stack.services() if stack.folder.exists() else []
    for name in services:
        pid = stack.pid(name)
        print(f"{name:<11} {f'runs, process {pid}, port {stack.places.port(name)}' if pid else 'does not run'}")
    runs = bool(services) and all(stack.pid(name) for name in services)
    print("all services run" if runs else "start it with 'zssmnet-service start'")
    return 0 if runs else 1


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    sys.exit(main())
