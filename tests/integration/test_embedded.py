"""The embedded server never outlives the command that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
PATIENCE_S = 120
COMMAND = """
from flows import embedded
embedded.set_defaults()
embedded.start_server()
from prefect.server.api.server import SubprocessASGIServer
print(SubprocessASGIServer().server_process.pid, flush=True)
if input() == "fail":
    raise RuntimeError
"""


def gone(process: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_the_server_ends_with_the_command(end: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        env=environment | {"PREFECT_HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert command.stdin and command.stdout
    server = int(command.stdout.readline())
    os.kill(server, 0)
    if end == "killed":
        command.send_signal(signal.SIGKILL)
    else:
        command.stdin.write("fail\n")
    command.communicate(timeout=PATIENCE_S)
    assert gone(server)
