"""Prefect embedded in a command: its settings, and a server that never outlives the command."""

import atexit
import os
import socket
import subprocess
import sys
import tempfile

from zssmnet.errors import ServiceError

SETTINGS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",  # the first start makes the database: slow machines
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}
"""Prefect's settings where the user has not chosen otherwise."""
SPIN_COUNT = {"GOMP_SPINCOUNT": "10000"}
"""How long PyTorch's threads spin when they wait for each other. With GNU OpenMP's own choice, training on a CPU
becomes six times slower as soon as one other program runs beside it; with this, twice, and a quiet machine loses
nothing.
"""

_END_PATIENCE_S = 10
"""How long the server may take to end."""


def set_defaults() -> None:
    """Set Prefect's settings and PyTorch's; must come before these are imported."""
    for name, value in (SETTINGS | SPIN_COUNT).items():
        os.environ.setdefault(name, value)


class Server:
    """Prefect's temporary server in a process of its own, named to Prefect in this process and its children.

    Its socket is open before it starts, so that all who ask wait until it is ready, and this process can go on.
    It ends when its standard input does, and that ends with this process, however this one ends. It is in a session of
    its own: an interrupt from the terminal is not for it, since the run tells it of its end after that.

    Attributes:
        process: the server.
    """

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._api = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the server
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.embedded_server", str(listening.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[listening.fileno()],
                start_new_session=True,
            )
        atexit.register(self._end)  # before Prefect registers its own last words, so after them
        os.environ["PREFECT_API_URL"] = self._api
        os.environ["PREFECT_UI_URL"] = ""  # it shows no pages

    def wait(self) -> None:
        """Wait until it answers: the first start makes the database.

        Raises:
            ServiceError: it does not.
        """
        from http.client import HTTPException
        from urllib.request import ProxyHandler, build_opener

        from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS as PATIENCE_S

        try:
            with build_opener(ProxyHandler({})).open(f"{self._api}/health", timeout=PATIENCE_S.value()):
                pass
        except (OSError, HTTPException) as error:
            raise ServiceError(
                f"Prefect's temporary server does not start: {self._last_error() or repr(error)}; see to its database, "
                "prefect.db in PREFECT_HOME (~/.prefect), or name a server that runs with PREFECT_API_URL"
            ) from error

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if "Error" in line), "")

    def _end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(_END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start_server() -> Server | None:
    """Start Prefect's temporary server, unless a server is configured; wait for it before the first flow."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return None
    server = Server()
    refresh_global_settings_context()
    return server
