"""The embedded server: runs no file of the current folder, never outlives the command that started it, and says why if
it cannot start.
"""

import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
PATIENCE_S = 400
COMMAND = """
from flows import embedded
embedded.set_defaults()
server = embedded.start_server()
server.wait()
print(server.process.pid, flush=True)
if input() == "fail":
    raise RuntimeError
"""


TRAPS = ("flows", "prefect", "uvicorn", "zssmnet")
"""Files of the current folder of which none may run, neither in the command nor in its server."""


def environment(home: Path) -> dict[str, str]:
    """One in which a command starts a server, with its database in a folder."""
    return {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(home)
    }


def gone(process: int) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


LONG = [pytest.param(end, marks=pytest.mark.long) for end in ("failed", "interrupted")]


@pytest.mark.parametrize("end", ["killed", *LONG])
def test_the_server_ends_with_the_command(end: str, home: Path, tmp_path: Path) -> None:
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    script = tmp_path / "elsewhere" / "start.py"
    script.parent.mkdir()
    script.write_text(COMMAND)
    command = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={name: value for name, value in environment(home).items() if not name.startswith("PYTHON")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert command.stdin and command.stdout
    server = int(command.stdout.readline())
    os.kill(server, 0)
    assert os.getsid(server) == server  # no interrupt from the command's terminal reaches it
    if end == "killed":
        command.send_signal(signal.SIGKILL)
    elif end == "interrupted":
        command.send_signal(signal.SIGINT)
    else:
        command.stdin.write("fail\n")
    command.communicate(timeout=PATIENCE_S)
    assert gone(server)
    assert not (tmp_path / "ran").exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    home = tmp_path / f"zssmnet-{metadata.version('prefect')}"
    home.mkdir()
    (home / "prefect.db").write_bytes(b"no database" * 1000)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "cubes", "--data", str(tmp_path), "--save", str(tmp_path / "cubes")],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("zssmnet: error: Prefect's temporary server does not start: ")
    assert "file is not a database" in line
    assert str(home / "prefect.db") in line
