"""Prefect embedded in a command: an environment of its own, and a server that never outlives the command.

A command whose environment names a server (PREFECT_API_URL) uses that one, with the user's settings. Any other command
starts a server for itself, which depends on nothing that is meant for other servers: neither on Prefect's profiles and
databases, nor on passwords, nor on proxies.
"""

import atexit
import gc
import os
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from zssmnet.errors import ConfigError, ServiceError, without_credentials

SETTINGS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",  # the first start makes the database: slow machines
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PYTHONSAFEPATH": "1",  # no process that a command starts has the current folder on its module path
}
"""Settings where the user has not chosen otherwise."""
_UNUSED = dict.fromkeys(
    (
        "PREFECT_API_BLOCKS_REGISTER_ON_START",  # with the next one, it imports all integrations, such as Dask
        "PREFECT_MEMOIZE_BLOCK_AUTO_REGISTRATION",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED",  # nobody looks at it: no pages, no automations
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED",
        "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED",
    ),
    "false",
)
"""What a command's own server need not do."""
_UNREAD = {"PREFECT_LOGGING_TO_API_ENABLED": "false"}
"""What a command need not send to it: log lines are on the terminal."""
SPIN_COUNT = {"GOMP_SPINCOUNT": "10000"}
"""How long PyTorch's threads spin when they wait for each other. With GNU OpenMP's own choice, training on a CPU
becomes six times slower as soon as one other program runs beside it; with this, twice, and a quiet machine loses
nothing.
"""

_END_S = 10
"""How long the server may take to end."""
_KEPT = ("PREFECT_LOGGING_", "PREFECT_SERVER_EPHEMERAL_", "PREFECT_TEST_", "PREFECT_FLOWS_", "PREFECT_TASKS_")
"""Settings of the user's that a command with a server of its own respects as well."""
_HINTS = {
    "'401 ": "its password goes to PREFECT_API_AUTH_STRING",
    "'404 ": "the address of its API ends in /api",
    "WRONG_VERSION_NUMBER": "it speaks http://, not https://",
}
"""What to do about an answer of a server that was named wrongly."""


def set_defaults() -> None:
    """Set Prefect's settings and PyTorch's; must come before these are imported."""
    for name, value in (SETTINGS | SPIN_COUNT).items():
        os.environ.setdefault(name, value)


def collect_garbage_seldom() -> None:
    """Look for garbage after 50,000 new objects instead of 700, and not at the end, when all memory is given back.

    Imports leave none: without the search they take a fifth less time, and a command ends half a second earlier.
    """
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)


def server_is_named() -> bool:
    """Whether the environment names a Prefect server; within a process that uses Prefect already, its settings."""
    if "prefect.settings" in sys.modules:
        from prefect.settings import PREFECT_API_URL

        return bool(PREFECT_API_URL.value())
    return bool(os.environ.get("PREFECT_API_URL"))


def own_home() -> Path:
    """Where a command's own server keeps its database: apart for each version of Prefect, which can read no other's."""
    home, name = Path(os.environ.get("PREFECT_HOME") or "~/.prefect"), f"zssmnet-{metadata.version('prefect')}"
    return home if home.name == name else home.expanduser().absolute() / name


def own_environment() -> None:
    """Give this process and its children an environment for a server of their own; before Prefect is imported."""
    try:
        home = own_home()
    except RuntimeError as error:
        raise ServiceError(f"{error}; Prefect keeps its database there: set HOME or PREFECT_HOME") from error
    for name in [name for name in os.environ if name.startswith("PREFECT_") and not name.startswith(_KEPT)]:
        del os.environ[name]
    for name in [name for name in os.environ if name.lower() in ("all_proxy", "http_proxy", "https_proxy")]:
        # HTTP proxies stay for S3; no client of S3 takes the others, and Prefect's client fails with them
        if name.lower() == "all_proxy" or os.environ[name].lower().startswith("socks"):
            del os.environ[name]
    direct = [host for host in (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1") if host]
    own = {"PREFECT_HOME": str(home), "PREFECT_PROFILES_PATH": str(home / "profiles.toml")}
    os.environ.update(own | dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(direct)))
    for name, value in _UNREAD.items():
        os.environ.setdefault(name, value)
    set_defaults()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceError(
            f"{home}: cannot be made: {error.strerror}; Prefect keeps its database there: set PREFECT_HOME to another "
            "folder"
        ) from error


def check_named_server() -> None:
    """See to it that the server which the environment names can be used, before anything is done.

    Raises:
        ConfigError: its address is none.
        ServiceError: no Prefect server answers there, or it does not let this user in.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    named = f"PREFECT_API_URL={without_credentials(str(PREFECT_API_URL.value()))}"
    if not str(PREFECT_API_URL.value()).startswith(("http://", "https://")):
        raise ConfigError(f"{named}: no address of a server; write one like http://host:4200/api, or unset it")
    try:
        with get_client(sync_client=True) as client:
            client.api_version()
    except Exception as error:  # whatever a foreign server, a proxy or no server at all leads to
        reason = without_credentials(" ".join(str(error).split()) or type(error).__name__)
        reason = reason.partition(" For more information")[0]
        hint = next((hint for sign, hint in _HINTS.items() if sign in reason), "see to it")
        raise ServiceError(
            f"{named}: no Prefect server that can be used: {reason}; {hint}, or unset PREFECT_API_URL to work "
            "without it"
        ) from error


class Server:
    """Prefect's temporary server in a process of its own, named to Prefect in this process and its children.

    Its socket is open before it starts, so that all who ask wait until it is ready, and this process can go on.
    It ends when its standard input does, and that ends with this process, however this one ends. It is in a session of
    its own: an interrupt from the terminal is not for it, since the run reports its end to it after that.

    Attributes:
        process: the server.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._api = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the server
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.embedded_server", str(listening.fileno())],
                env=os.environ | _UNUSED,
                cwd=home,  # neither settings nor code of the current folder are for it
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
        atexit.register(self._end)  # registered before Prefect's own, so run after them
        os.environ["PREFECT_API_URL"] = self._api
        os.environ["PREFECT_UI_URL"] = ""  # it shows no pages

    def wait(self) -> None:
        """Wait until it answers: the first start makes the database.

        Raises:
            ServiceError: it does not.
        """
        from http.client import HTTPException
        from urllib.request import ProxyHandler, build_opener

        from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS as START_S

        try:
            with build_opener(ProxyHandler({})).open(f"{self._api}/health", timeout=START_S.value()):
                pass
        except (OSError, HTTPException) as error:
            raise ServiceError(
                f"Prefect's temporary server does not start: {self._last_error() or repr(error)}; see to its database, "
                f"{self._home / 'prefect.db'}, or name a server that runs with PREFECT_API_URL"
            ) from error

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "Error" in line), "")

    def _end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start_server() -> Server | None:
    """Start Prefect's temporary server, unless one is named; wait for it before the first flow.

    Raises:
        ConfigError, ServiceError: the server that is named cannot be used.
    """
    if server_is_named():
        check_named_server()
        return None
    own_environment()
    server = Server(Path(os.environ["PREFECT_HOME"]))
    from prefect.context import refresh_global_settings_context
    from prefect.events.clients import NullEventsClient
    from prefect.events.worker import EventsWorker

    refresh_global_settings_context()
    EventsWorker.set_client_override(NullEventsClient)  # that server keeps no events
    return server
