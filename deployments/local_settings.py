"""Settings of the service on one machine: port, password, environment, and the configuration of supervisor.

Commands and settings are those of docker-compose.yml; only addresses and folders differ. Redis and the container of the
background services are left out, since the server runs these itself here (without ``--no-services``); PostgreSQL and S3
are used where the environment names them, else SQLite and folders.
"""

import io
import os
import re
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping
from configparser import RawConfigParser
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from deployments import compose
from zssmnet.errors import ZssmnetError

MARK = "ZSSMNET_SERVICE"
"""The variable by which every process of a stack is found, however deep: runs have sessions of their own."""
SERVER, SETUP, CPU, GPU = "server", "setup", "cpu-worker", "gpu-worker"
_OF_CONTAINERS = ("--no-services", "--with-healthcheck")
"""Words of commands: background services run in the server, and supervisor watches the workers without open ports."""
_REDIS = ("redis:", "prefect_redis.")
"""What values that lead to Redis begin with."""
_DATABASE = ("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_")
_PASSWORDS = ("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING")
_S3 = ("AWS_DEFAULT_REGION", "ZSSMNET_BUCKET", "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK")
_DIFFERENT = (*_DATABASE, *_PASSWORDS, "AWS_", *_S3)
"""What settings begin with that are not those of docker-compose.yml."""
_TEMPLATE = Path(__file__).with_name("supervisord.conf")
STATE, DATABASE = "state.json", "prefect.db"


class StackError(ZssmnetError):
    """The service cannot be started, does not become ready, or does not end."""


class State(BaseModel):
    """Contents of ``state.json``, kept from one start to the next.

    Attributes:
        passwords: ``api``, of Prefect's API and pages.
        ports: ``server``.
        database: Prefect's settings of the database that was named; SQLite if empty.
        mark: the value of `MARK` in the environment of all processes.
        folder: where the stack's folder was at the last start.
    """

    passwords: dict[str, str]
    ports: dict[str, int] = {}
    database: dict[str, str] = {}
    mark: str = Field(default_factory=lambda: secrets.token_hex(8))
    folder: str = ""


class LocalSettings:
    """Commands and settings of the stack in one folder.

    Attributes:
        overrides: settings (environment variables) that replace all others, for every service and client.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, str]) -> None:
        self.folder = folder
        self.overrides = dict(overrides)
        self.state = read_state(folder)

    @property
    def address(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.state.ports[SERVER]}"

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

    def prepare(self, port: int | None, umask: int) -> list[str]:
        """Choose port and database, and write all files for a start; notes for the user.

        Args:
            port: the server's port, if it has none yet and this one is free.
            umask: what runs create files with; everything else is for its owner alone.
        """
        notes, state = [], self.state
        if state.folder not in ("", str(self.folder)):
            notes.append(f"the service was moved here from {state.folder}: addresses below it have changed, too")
        wish = state.ports.get(SERVER, port)
        free = _free_port(wish or 0) or _free_port(0)
        if wish and wish != free:
            notes.append(f"port {wish} is taken by another program: the server listens on {free} from now on")
        database = {name: value for name, value in os.environ.items() if name.startswith(_DATABASE)} or state.database
        update = {"ports": {SERVER: free}, "folder": str(self.folder), "database": database}
        self.state = state.model_copy(update=update)
        shell = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.clients().items())
        files = {
            STATE: self.state.model_dump_json(indent=2),
            "env": shell,
            "supervisord.conf": self._configuration(umask),
        }
        for name, text in files.items():
            new = self.folder / f"{name}.new"
            new.unlink(missing_ok=True)
            new.touch(mode=0o600)
            new.write_text(text)
            new.replace(self.folder / name)
        return notes

    def command(self, name: str) -> list[str]:
        """Program and arguments, those of docker-compose.yml."""
        variables = os.environ | self.workers().get(name, {})
        program, *words = (compose.substitute(word, variables) for word in _service(name)["command"])
        module = [] if program == "python" else ["-P", "-m", program]  # scripts of an environment do not outlive a move
        return [sys.executable, *module, *(word for word in words if word not in _OF_CONTAINERS)]

    def clients(self) -> dict[str, str]:
        """Settings for programs that use the service, sorted by name."""
        own = {
            "PREFECT_API_URL": f"{self.address}/api",
            "PREFECT_UI_URL": self.address,
            "PREFECT_API_AUTH_STRING": f"zssmnet:{self.state.passwords['api']}",
        }
        return dict(sorted((self._known(SETUP) | own | self._storage() | self.overrides).items()))

    def environment(self) -> dict[str, str]:
        """The environment of supervisor and with it of every process: the shell's, but for other Prefect servers."""
        shell = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        own = {
            "PREFECT_HOME": str(self.folder / "prefect"),  # apart from the user's profiles and databases
            "ZSSMNET_CACHE": os.environ.get("ZSSMNET_CACHE", str(self.folder / "cache")),
            MARK: self.state.mark,
        }
        return shell | self._known(CPU) | own | self.clients()

    def server_environment(self) -> dict[str, str]:
        """Settings of the server alone."""
        sqlite = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.folder / DATABASE}"}
        own = {
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(self.state.ports[SERVER]),
            "PREFECT_SERVER_API_AUTH_STRING": f"zssmnet:{self.state.passwords['api']}",
            "PREFECT_SERVER_UI_API_URL": f"{self.address}/api",
        }
        settings = self._known(SERVER) | (self.state.database or sqlite) | own
        return {name: self.overrides.get(name, value) for name, value in settings.items()}

    def _storage(self) -> dict[str, str]:
        """Storage of runs' results: a folder, or the S3 service that the environment names."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        if not endpoint and not os.environ.get("ZSSMNET_BUCKET"):
            return {"PREFECT_LOCAL_STORAGE_PATH": str(self.folder / "results")}
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if endpoint and not os.environ.get(name) and not os.environ.get("AWS_PROFILE"):
                raise StackError(f"AWS_ENDPOINT_URL is set to {endpoint}, but {name} is not: set it, too")
        named = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        known = _service(SETUP)["environment"]
        return {name: compose.substitute(known[name], os.environ) for name in _S3} | named

    def _known(self, name: str) -> dict[str, str]:
        """The settings of docker-compose.yml that are the same here."""
        settings = {
            key: compose.substitute(value, os.environ)
            for key, value in _service(name)["environment"].items()
            if value is not None and not key.startswith(_DIFFERENT)
        }
        return {key: value for key, value in settings.items() if not value.startswith(_REDIS)}

    def _configuration(self, umask: int) -> str:
        configuration = RawConfigParser()
        configuration.read_string(_TEMPLATE.read_text())
        program = dict(configuration["program"])
        configuration.remove_section("program")
        for name, environment in {SERVER: self.server_environment(), **self.workers()}.items():
            configuration[f"program:{name}"] = program | {
                "command": shlex.join(self.command(name)).replace("%", "%%"),
                "environment": ",".join(f"{key}={_quoted(key, value)}" for key, value in environment.items()),
                "umask": "077" if name == SERVER else f"{umask:03o}",
                "priority": "1" if name == SERVER else "2",
            }
        configuration.write(text := io.StringIO())
        return text.getvalue()


def read_state(folder: Path) -> State:
    """The state of the stack in a folder; a new one, with a new password, where there is none.

    Raises:
        StackError: its file cannot be used.
    """
    path = folder / STATE
    if not path.exists():
        return State(passwords={"api": secrets.token_urlsafe(24)})
    try:
        state = State.model_validate_json(path.read_bytes())
        if not state.passwords.get("api"):
            raise ValueError("it has no password")
        return state
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise StackError(
            f"{path}: cannot be read: {reason}; move it away; the next start creates a new password"
        ) from error


def _service(name: str) -> dict[str, Any]:
    service: dict[str, Any] = compose.read_compose()["services"][GPU if name.startswith(GPU) else name]
    return service


def gpus_of_this_machine() -> list[str]:
    """The numbers of the NVIDIA GPUs."""
    return sorted(device.name.removeprefix("nvidia") for device in Path("/dev").glob("nvidia[0-9]*"))


def _quoted(name: str, value: str) -> str:
    if re.search(r"[\"\n]|\s[;#]", value):
        raise StackError(f"{name}: contains a quote, a comment or a line break, which supervisor cannot read")
    return '"' + value.replace("%", "%%") + '"'


def _free_port(port: int) -> int:
    """This port, if nobody listens on it; for 0, any such port. 0 if it is taken."""
    with socket.socket() as trial, suppress(OSError, OverflowError):
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed a moment ago is free
        trial.bind(("127.0.0.1", port))
        return int(trial.getsockname()[1])
    return 0
