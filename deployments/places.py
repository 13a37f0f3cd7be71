"""Where the services of a local stack are, and what each is started with: ports, passwords, commands, settings.

All of it that is drawn or chosen is kept in ``state.json`` of the stack's folder, readable by its owner alone.
"""

import json
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

from deployments import compose, postgres
from deployments.processes import StackError

APART = "--no-services"
"""A flag of docker-compose.yml's server, because its background services run apart, with Redis between."""
_STATE = "state.json"
_REDIS = ("redis:", "prefect_redis.")
"""How values begin that lead to Redis."""
_WORKERS = {"cpu-worker": "", "gpu-worker": "0"}
"""Which GPU each worker's runs see; a run of the pool ``cpu`` sees none in its container either."""
_SERVICES = ("postgres", "s3", "server", "cpu-worker", "gpu-worker")


class Places:
    """Ports, passwords, commands and settings of the stack in one folder.

    Attributes:
        overrides: settings that come before all others, for every service and client.
        wishes: ports that services get if these are free.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, str], wishes: Mapping[str, int]) -> None:
        self.folder = folder
        self.overrides = dict(overrides)
        self.wishes = dict(wishes)

    @cached_property
    def cluster(self) -> postgres.Cluster | None:
        """The PostgreSQL cluster; None where PostgreSQL is not installed."""
        return postgres.find(self.folder)

    @property
    def foreign_s3(self) -> str | None:
        """The address of an S3 service that the user names and that is not the stack's own."""
        named = os.environ.get("AWS_ENDPOINT_URL")
        return named if named and named != self.address("s3") else None

    @property
    def database_password(self) -> str:
        """The password of the database's user."""
        return str(self._state["passwords"]["database"])

    def user(self, name: str) -> str | None:
        """The system's user that a service runs as, if not the present one."""
        return self.cluster.user if name == "postgres" and self.cluster else None

    def make_folders(self, *names: str) -> None:
        """Make folders within the stack's folder, for its owner alone."""
        self._make_folder()
        for name in names:
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)

    def port(self, name: str) -> int:
        """The port of a service."""
        return int(self._state["ports"][name])

    def address(self, name: str) -> str:
        """The address of a service."""
        return f"http://127.0.0.1:{self.port(name)}"

    def take_port(self, name: str) -> None:
        """Give the service another port if its own has been taken by a foreign program meanwhile."""
        if not _is_free(self.port(name)):
            (self._state["ports"][name],) = _free_ports(1)
            self._save(self._state)

    def command(self, name: str) -> list[str]:
        """Program and arguments: those of docker-compose.yml for all that it runs from this project's images."""
        if name == "postgres":
            assert self.cluster
            return self.cluster.command(self.port(name))
        if name == "s3":
            return [sys.executable, "-P", "-m", "moto.server", "--host", "127.0.0.1", "--port", str(self.port(name))]
        program, *arguments = self._service(name).command
        here = sys.executable if program == "python" else str(Path(sys.executable).with_name(program))
        return [here, *(word for word in arguments if word != APART)]

    def clients(self) -> dict[str, str]:
        """Settings for programs that use the service."""
        return self._known("setup") | self._addresses() | self.overrides

    def environment(self, name: str) -> dict[str, str]:
        """The whole environment of a service: the shell's, but for settings of other Prefect servers, and its own."""
        shell = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        home = {"PREFECT_HOME": str(self.folder / "prefect")}  # apart from the user's profiles and databases
        return shell | home | self._own(name) | self.overrides

    def write_environment(self) -> None:
        """Write ``env`` for the shell: ``. .service/env``."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self.clients().items())]
        _write_secret(self.folder / "env", "".join(lines))

    def _own(self, name: str) -> dict[str, str]:
        if name in ("postgres", "s3"):
            return {}
        if name == "server":
            return self._database(self._known(name)) | {
                "PREFECT_SERVER_API_HOST": "127.0.0.1",
                "PREFECT_SERVER_API_PORT": str(self.port("server")),
                "PREFECT_SERVER_UI_API_URL": f"{self.address('server')}/api",
            }
        settings = self._known(name) | self._addresses()
        if name in _WORKERS:
            settings |= {
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(self.port(name)),
                "ZSSMNET_CACHE": os.environ.get("ZSSMNET_CACHE", str(self.folder / "cache")),
                "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0") if _WORKERS[name] else "",
            }
        return settings

    def _known(self, name: str) -> dict[str, str]:
        """The settings of docker-compose.yml, but for those that lead to Redis."""
        settings = self._service(name).environment
        return {key: value for key, value in settings.items() if not value.startswith(_REDIS)}

    def _database(self, settings: Mapping[str, str]) -> dict[str, str]:
        if self.cluster:
            return {**settings, **self.cluster.settings(self.port("postgres"), self.database_password)}
        others = {key: value for key, value in settings.items() if not key.startswith("PREFECT_SERVER_DATABASE_")}
        return others | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.folder / 'prefect.db'}"}

    def _addresses(self) -> dict[str, str]:
        server = {"PREFECT_API_URL": f"{self.address('server')}/api", "PREFECT_UI_URL": self.address("server")}
        return server | {"AWS_ENDPOINT_URL": self.foreign_s3 or self.address("s3")}

    def _service(self, name: str) -> compose.Service:
        passwords = self._state["passwords"]
        keys = {"AWS_ACCESS_KEY_ID": "zssmnet", "AWS_SECRET_ACCESS_KEY": passwords["s3"]}
        if self.foreign_s3:
            keys = {name: os.environ.get(name, "") for name in keys}
            if missing := [name for name, value in keys.items() if not value]:
                raise StackError(f"AWS_ENDPOINT_URL is set to {self.foreign_s3}, but {missing[0]} is not: set it, too")
        own = {"POSTGRES_PASSWORD": passwords["database"], "PREFECT_API_AUTH_STRING": f"zssmnet:{passwords['api']}"}
        return compose.read_service(name, os.environ | keys | own)

    @cached_property
    def _state(self) -> dict[str, Any]:
        path = self.folder / _STATE
        if path.exists():
            try:
                state: dict[str, Any] = json.loads(path.read_text())
                return state
            except (OSError, ValueError) as error:
                raise StackError(f"{path}: cannot be read: {error}") from error
        ports = dict(zip(_SERVICES, _free_ports(len(_SERVICES)), strict=True))
        ports |= {name: port for name, port in self.wishes.items() if _is_free(port)}
        state = {"ports": ports, "passwords": {name: secrets.token_urlsafe(24) for name in ("database", "api", "s3")}}
        self._save(state)
        return state

    def _save(self, state: Mapping[str, Any]) -> None:
        self._make_folder()
        _write_secret(self.folder / _STATE, json.dumps(state, indent=2))

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # root's PostgreSQL runs as another user, who gets to its files through this folder; all secrets are 0600
        self.folder.chmod(0o711 if os.geteuid() == 0 else 0o700)


def _write_secret(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def _free_ports(number: int) -> list[int]:
    """Ports that nobody listens on; all are kept open until the last is found, so that none is given twice."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was closed a moment ago is free
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
