"""One real Prefect server for all tests of a session, on a database of its own, also for tests side by side."""

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

FOLDER = "ZSSMNET_TEST_SESSION"
"""Names the session's folder to the processes of pytest-xdist."""
STARTUP_S, END_S = 1000, 60
_started: list["subprocess.Popen[bytes]"] = []  # as long as this process


class SessionFolder:
    """What tests side by side share: the server, if one has asked for it, and what was made once (`made_once`).

    The server ends when this is closed, or with this process.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="zssmnet-session-"))
        os.mkfifo(self._folder / "alive")
        self._alive = os.open(self._folder / "alive", os.O_RDWR)
        os.environ[FOLDER] = str(self._folder)

    def close(self) -> None:
        """End the server, and remove its files."""
        os.close(self._alive)
        deadline = time.monotonic() + END_S
        while _runs(self._folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(self._folder, ignore_errors=True)


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made once in a session, by whoever asks for it first; nobody changes it."""
    folder = Path(os.environ[FOLDER]) / name
    done = folder.with_name(f"{folder.name}.done")
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def _runs(folder: Path) -> bool:
    try:
        stat = Path(f"/proc/{(folder / 'pid').read_text()}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] not in "ZX"  # its cmdline is empty, too, while it is started
    except OSError:
        return False


def _address(folder: Path) -> str:
    """The API's address; the first who asks starts the server, as a command starts its own."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "api").exists():
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            with (folder / "alive").open("rb") as alive, (folder / "errors").open("wb") as errors:
                server = subprocess.Popen(
                    [sys.executable, "-m", "tests.prefect_server", str(port)],
                    env={name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
                    | {"PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
                    cwd=Path(__file__).parents[1],
                    stdin=alive,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
                _started.append(server)
                (folder / "pid").write_text(str(server.pid))
                (folder / "api").write_text(f"http://127.0.0.1:{port}/api")
    return (folder / "api").read_text()


def _wait_for(address: str, folder: Path) -> None:
    deadline = time.monotonic() + STARTUP_S
    while True:
        try:
            with build_opener(ProxyHandler({})).open(f"{address}/health", timeout=10):
                return
        except OSError as error:
            if time.monotonic() > deadline or not _runs(folder):
                said = (folder / "errors").read_text()[-2000:]
                raise RuntimeError(f"Prefect's server does not start: {said}") from error
            time.sleep(0.2)


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """The address of the server's API."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    folder = Path(os.environ[FOLDER])
    address = _address(folder)
    _wait_for(address, folder)
    with temporary_settings({PREFECT_API_URL: address}):
        yield address
        APILogWorker.drain_all()
        EventsWorker.drain_all()


@pytest.fixture(scope="session")
def prefect_database(prefect_api: str) -> Path:
    """The server's database."""
    return Path(os.environ[FOLDER]) / "prefect.db"
