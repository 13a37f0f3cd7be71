"""What the service on one machine is started with: ports, passwords, settings, and the configuration of supervisor.

Commands and settings are those of docker-compose.yml; only addresses and folders differ. Redis and the container of the
background services are left out, since the server runs these itself here (without ``--no-services``); PostgreSQL and S3
are used where the environment names them, else SQLite and folders.
"""

import os
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from deployments import compose
from zssmnet.errors import ZssmnetError

MARK = "ZSSMNET_SERVICE"
"""The variable by which every process of a stack is found, however deep: runs have sessions of their own."""
SERVER, CPU, GPU = "server", "cpu-worker", "gpu-worker"
_APART = "--no-services"
"""A flag of docker-compose.yml's server, whose background services run in a container of their own."""
_REDIS = ("redis:", "prefect_redis.")
"""What values that lead to Redis begin with."""
_DATABASE = re.compile(r"PREFECT_(API|SERVER)_DATABASE_")
_S3 = ("AWS_", "ZSSMNET_BUCKET", "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK")
"""Settings of docker-compose.yml that need an S3 service."""
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


class StackError(ZssmnetError):
    """The service cannot be started, does not become ready, or does not end."""


class Passwords(BaseModel):
    """``api`` is that of Prefect's API and pages."""

    api: str = Field(default_factory=lambda: secrets.token_urlsafe(24), min_length=1)


class State(BaseModel):
    """What ``state.json`` keeps from one start to the next.

    Attributes:
        ports: by service.
        database: Prefect's settings of the database that was named; SQLite if empty.
        mark: the value of `MARK` in the environment of all processes.
        folder: where the stack's folder was at the last start.
    """

    passwords: Passwords
    ports: dict[str, int] = {}
    database: dict[str, str] = {}
    mark: str = Field(default_factory=lambda: secrets.token_hex(8))
    folder: str = ""


class LocalSettings:
    """Ports, passwords, commands and settings of the stack in one folder.

    Attributes:
        overrides: settings (environment variables) that replace all others, for every service and client.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, str], port: int | None) -> None:
        self.folder = folder
        self.overrides = dict(overrides)
        self._wish = port
        self._file = folder / "state.json"
        self.state = self._read()

    def workers(self) -> dict[str, dict[str, str]]:
        """The workers by name, and the settings of each.

        One serves the pool ``cpu``, whose runs see no GPU, and one the pool ``gpu``, whose runs see all of them.
        ``ZSSMNET_GPU_WORKERS`` sets a number of workers that share the GPUs, each with trainings of its own.
        """
        cpu = {CPU: {"CUDA_VISIBLE_DEVICES": ""}}
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(gpus_of_this_machine())).split(",")
        wanted = os.environ.get("ZSSMNET_GPU_WORKERS") or "1"
        if wanted == "1":
            return cpu | {GPU: {}}
        if wanted not in map(str, range(2, len(gpus) + 1)):
            raise StackError(f"ZSSMNET_GPU_WORKERS is {wanted}: set 1 to {len(gpus)}, the number of GPUs")
        number = int(wanted)
        shares = [gpus[k * len(gpus) // number : (k + 1) * len(gpus) // number] for k in range(number)]
        return cpu | {
            f"{GPU}-{k}": {"CUDA_VISIBLE_DEVICES": ",".join(share), "ZSSMNET_GPU_WORKER": f"gpu{k}"}
            for k, share in enumerate(shares)
        }

    def prepare(self, umask: int) -> list[str]:
        """Choose ports and database, and write all files for a start; notes for the user.

        Args:
            umask: what runs create files with; everything else is for its owner alone.
        """
        notes, state = [], self.state
        if state.folder not in ("", str(self.folder)):
            notes.append(f"the service was moved here from {state.folder}: addresses below it have changed, too")
        wishes = ({SERVER: self._wish} if self._wish else {}) | state.ports
        services = [SERVER, *self.workers()]
        ports = {
            name: wishes[name] if is_free(wishes.get(name)) else free
            for name, free in zip(services, free_ports(len(services)), strict=True)
        }
        if ports[SERVER] != wishes.get(SERVER, ports[SERVER]):
            notes.append(
                f"port {wishes[SERVER]} is taken by another program: the server listens on {ports[SERVER]} from now on"
            )
        named = {name: value for name, value in os.environ.items() if _DATABASE.match(name)}
        update = {"ports": ports, "folder": str(self.folder), "database": named or state.database}
        self.state = state.model_copy(update=update)
        write_secret(self._file, self.state.model_dump_json(indent=2))
        write_secret(self.folder / "env", "".join(f"export {k}={shlex.quote(v)}\n" for k, v in self.clients().items()))
        write_secret(self.folder / "supervisord.conf", "\n".join(self._configuration(umask)))
        return notes

    def port(self, name: str) -> int:
        """The port of a service."""
        return self.state.ports[name]

    def address(self, name: str) -> str:
        """The address of a service."""
        return f"http://127.0.0.1:{self.port(name)}"

    def command(self, name: str) -> list[str]:
        """Program and arguments, those of docker-compose.yml."""
        variables = os.environ | self.workers().get(name, {})
        program, *arguments = self._service(GPU if name.startswith(GPU) else name, variables).command
        module = [] if program == "python" else ["-P", "-m", program]  # scripts of an environment do not outlive a move
        return [sys.executable, *module, *(word for word in arguments if word != _APART)]

    def clients(self) -> dict[str, str]:
        """Settings for programs that use the service, sorted by name."""
        own = {
            "PREFECT_API_URL": f"{self.address(SERVER)}/api",
            "PREFECT_UI_URL": self.address(SERVER),
            "PREFECT_API_AUTH_STRING": f"zssmnet:{self.state.passwords.api}",
        }
        settings = self._known("setup") | own | self._storage() | self.overrides
        return dict(sorted(settings.items()))

    def environment(self) -> dict[str, str]:
        """The environment of supervisor and with it of every process: the shell's, but for other Prefect servers."""
        shell = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        own = {
            "PREFECT_HOME": str(self.folder / "prefect"),  # apart from the user's profiles and databases
            "ZSSMNET_CACHE": os.environ.get("ZSSMNET_CACHE", str(self.folder / "cache")),
            "ZSSMNET_GPU_WORKERS": str(len(self.workers()) - 1),
            MARK: self.state.mark,
        }
        return shell | self._known(CPU) | own | self.clients()

    def server_environment(self) -> dict[str, str]:
        """Settings of the server alone."""
        settings = {name: value for name, value in self._known(SERVER).items() if not _DATABASE.match(name)}
        sqlite = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///%(here)s/prefect.db"}
        named = {name: value.replace("%", "%%") for name, value in self.state.database.items()}
        own = {
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(self.port(SERVER)),
            "PREFECT_SERVER_API_AUTH_STRING": f"zssmnet:{self.state.passwords.api}",
            "PREFECT_SERVER_UI_API_URL": f"{self.address(SERVER)}/api",
        }
        settings |= (named or sqlite) | own
        return {name: self.overrides.get(name, value) for name, value in settings.items()}

    def _storage(self) -> dict[str, str]:
        """Where results of runs go: a folder, or the S3 service that the environment names."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        if not endpoint and not os.environ.get("ZSSMNET_BUCKET"):
            return {"PREFECT_LOCAL_STORAGE_PATH": str(self.folder / "results")}
        missing = [name for name in _KEYS if not os.environ.get(name)]
        if endpoint and missing and not os.environ.get("AWS_PROFILE"):
            raise StackError(f"AWS_ENDPOINT_URL is set to {endpoint}, but {missing[0]} is not: set it, too")
        named = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        known = self._service("setup", os.environ).environment
        return {name: known[name] for name in ("AWS_DEFAULT_REGION", *_S3[1:])} | named

    def _known(self, name: str) -> dict[str, str]:
        """The settings of docker-compose.yml, but for those that lead to Redis or to its S3."""
        settings = self._service(name, os.environ).environment
        return {k: v for k, v in settings.items() if not v.startswith(_REDIS) and not k.startswith(_S3)}

    def _service(self, name: str, variables: Mapping[str, str]) -> compose.Service:
        required = dict.fromkeys(("POSTGRES_PASSWORD", "PREFECT_API_AUTH_STRING", *_KEYS), "not used here")
        return compose.read_service(name, required | dict(variables))

    def _configuration(self, umask: int) -> Iterator[str]:
        """The lines of ``supervisord.conf``; ``%(here)s`` is its folder."""
        yield from (
            "[supervisord]",
            *_options(
                logfile="%(here)s/logs/supervisord.log",
                logfile_maxbytes="10MB",
                logfile_backups="4",
                pidfile="%(here)s/supervisord.pid",
                childlogdir="%(here)s/logs",
                directory="%(here)s",
                umask="077",
            ),
            "[unix_http_server]",
            *_options(file="%(here)s/supervisor.sock", chmod="0700"),
            "[rpcinterface:supervisor]",
            *_options(**{"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"}),
        )
        yield from _program(SERVER, self.command(SERVER), self.server_environment(), priority="1")
        for name, settings in self.workers().items():
            health = {
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(self.port(name)),
            }
            yield from _program(name, self.command(name), health | settings, priority="2", umask=f"{umask:03o}")

    def _read(self) -> State:
        if not self._file.exists():
            return State(passwords=Passwords())
        try:
            return State.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
            raise StackError(
                f"{self._file}: cannot be read: {reason}; move it away, and the next start makes a new password"
            ) from error


def gpus_of_this_machine() -> list[str]:
    """The numbers of the NVIDIA GPUs."""
    return sorted(device.name.removeprefix("nvidia") for device in Path("/dev").glob("nvidia[0-9]*"))


def _program(name: str, command: Iterable[str], environment: Mapping[str, str], **options: str) -> list[str]:
    return [
        f"[program:{name}]",
        *_options(
            command=shlex.join(command).replace("%", "%%"),
            environment=",".join(f"{key}={_quoted(key, value)}" for key, value in environment.items()),
            directory="%(here)s",
            autostart="false",  # each is started when those it needs are ready
            autorestart="true",
            startsecs="5",
            startretries="100",
            stopwaitsecs="60",
            redirect_stderr="true",
            stdout_logfile=f"%(here)s/logs/{name}.log",
            stdout_logfile_maxbytes="10MB",
            stdout_logfile_backups="4",
            **options,
        ),
    ]


def _options(**options: str) -> list[str]:
    return [*(f"{name} = {value}" for name, value in options.items()), ""]


def _quoted(name: str, value: str) -> str:
    if re.search(r"[\"\s]", value):
        raise StackError(f"{name}: has blanks or quotes in it, which the configuration of supervisor cannot hold")
    return f'"{value}"'


def write_secret(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on; all are kept open until the last is found, so that none is given twice."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def is_free(port: int | None) -> bool:
    """Whether it is a port, and nobody listens on it."""
    if not port:
        return False
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed a moment ago is free
        try:
            trial.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True
