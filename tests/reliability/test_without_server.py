"""Plain commands have no server: nothing of Prefect's can hold them up, and nothing of theirs is kept by it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.killing import digests
from tests.reliability.ledger import Ledger
from tests.reliability.undisturbed import Undisturbed

pytestmark = pytest.mark.integration
ALONE = """
import os, sys

def watch(event, arguments):
    met = event if event == "socket.connect" else ""
    if event == "import" and arguments[0].partition(".")[0] in ("prefect", "tasks", "uvicorn"):
        met = f"import {arguments[0]}"
    elif event == "subprocess.Popen" and "python" in str(arguments[:2]):
        met = f"{event} {arguments[:2]}"
    if met:
        os.write(2, f"not alone: {met}\\n".encode())
        os._exit(99)

sys.addaudithook(watch)
from flows.cli import main
main()
"""
"""A command that ends where it would connect to anything, start another Python, or import Prefect."""


def test_a_command_connects_to_nothing_and_starts_nothing(
    undisturbed: Undisturbed, tmp_path: Path, ledger: Ledger
) -> None:
    """From the archive to weights: also with settings of Prefect around that would be in its way."""
    home, root = tmp_path / "home", tmp_path / "root"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
        "HOME": str(home),
        "PREFECT_PROFILE": "no-such-profile",
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////proc/nowhere.db",
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }
    with ledger.tried("plain command", "no server can be reached or started"):
        done = subprocess.run(
            [sys.executable, "-c", ALONE, *undisturbed.words(root)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"weights:  {root}/SSL/pretrained_weights/ssl_mnet_zonal.model" in done.stdout
        assert digests(str(root)) == undisturbed.files
        assert not (home / ".prefect").exists()
