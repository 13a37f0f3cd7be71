"""Prefect embedded in a command: its settings, and a server that never outlives the command."""

import os
import subprocess
import sys
import threading
import time

SETTINGS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",  # the first start makes the database: slow machines
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

_GUARD = "import os, signal, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), signal.SIGTERM)"
"""Waits until its standard input ends, which it does with the process that started it, however that ends."""
_guards: "list[subprocess.Popen[bytes]]" = []
"""Kept, since a guard's standard input ends when nobody holds it any more."""


def set_defaults() -> None:
    """Set Prefect's settings and PyTorch's; must come before these are imported."""
    for name, value in (SETTINGS | SPIN_COUNT).items():
        os.environ.setdefault(name, value)


def start_server() -> None:
    """Start Prefect's temporary server, unless a server is configured, with a guard that ends it after this process.

    Prefect ends its temporary server when the process ends in an orderly way; a killed one would leave it behind.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    server = SubprocessASGIServer()
    starting = threading.Thread(target=server.start)
    starting.start()
    while server.server_process is None and starting.is_alive():
        time.sleep(0.01)
    if server.server_process:
        _guards.append(_guard(server.server_process.pid))
    starting.join()


def _guard(process: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _GUARD, str(process)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the terminal is not for the guard
    )
