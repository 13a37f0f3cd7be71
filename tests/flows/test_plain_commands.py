"""Commands run plainly: no Prefect, no process, nothing in the home; and whatever else lies about does not matter."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.zssmnet.examinations import Archive
from tests.zssmnet.registry.test_versions import RUNS, add
from zssmnet.storage import LocalStorage
from zssmnet.storage.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ("prefect", "fastapi", "sqlalchemy", "uvicorn", "httpx", "websockets")
WATCHED = """
import json, sys
started = []
def watch(event, arguments):
    is_python = event == "subprocess.Popen" and sys.executable in str(arguments)
    if event in ("os.fork", "os.forkpty", "socket.connect") or is_python:
        started.append(f"{event} {arguments}"[:200])  # libraries ask ldconfig and fc-list: these are none of ours
sys.addaudithook(watch)
from zssmnet.__main__ import main
found = {}
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as exit:
        imported = [name for name in SERVICE if name in sys.modules]
        found[words[0]] = exit.code, started[:], imported, "torch" in sys.modules
print(json.dumps(found))
"""


ONE_BY_ONE = """
import json, sys
from zssmnet.__main__ import main
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as exit:
        print("exit", exit.code, flush=True)
"""
"""Commands in one process, which imports the program once."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return small_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One with a home and a Prefect home of its own, and nothing of Prefect's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ZSSMNET_"))}
    (tmp_path / "home").mkdir()
    return kept | {
        "HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "prefect home"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def python(
    *words: str | Path, environment: dict[str, str], cwd: Path, **more: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", *map(str, words)]
    return subprocess.run(command, env=environment | more, cwd=cwd, capture_output=True, text=True, timeout=900)


def error_of(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line with which a command has ended."""
    (*_, last) = errors_of(done)
    assert done.stderr.splitlines()[-1] == last
    return last


def errors_of(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """The lines with which commands have ended."""
    assert "Traceback" not in done.stdout + done.stderr
    assert "unexpected" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("zssmnet: error: ")]


def spoil(folder: Path) -> Path:
    """A folder with other people's settings, none of which a command could use."""
    folder.mkdir()
    (folder / ".env").write_bytes("NAME=Müller\nPREFECT_LOGGING_LEVEL=verbose\n".encode("latin-1"))
    (folder / "pyproject.toml").write_text('[project\nname = "x"\n')
    (folder / "prefect.toml").write_text('[server.api]\nport = "abc"\n')
    for name in ("prefect", "flows", "zssmnet", "torch"):
        (folder / f"{name}.py").write_text("raise SystemExit('a module of the current folder was imported')\n")
    return folder


def test_no_command_of_the_pipeline_needs_prefect_a_process_or_a_home(
    archive: tuple[Path, Path], environment: dict[str, str], tmp_path: Path
) -> None:
    """One after the other in one process, in a folder whose settings end Prefect, among variables that do; none of them
    connects to anything, either.
    """
    root, settings = tmp_path / "root" / "SSL", tmp_path / "quick.toml"
    settings.write_text(QUICK_SETTINGS)
    where = ["--images_path", str(archive[0]), "--zonal_mask_path", str(archive[1])]
    data, cubes, weights = (str(root / name) for name in ("data", "generated_cubes", "pretrained_weights"))
    commands = [
        ["prepare", *where, "--output_path", data],
        ["cubes", "--data", data, "--save", cubes, "--config", str(settings)],
        ["pretrain", "--data", cubes, "--output", weights, "--config", str(settings)],
        ["run", *where, "--output", str(root.parent), "--config", str(settings)],
        ["retrain", *where, "--output", str(root.parent), "--config", str(settings)],
        ["demo", "--output", str(tmp_path / "demo"), "--cases", "6", "--epochs", "1"],
        ["versions", "--output", str(root.parent)],
        ["verify", "--output", str(root.parent)],
    ]
    code = f"SERVICE = {SERVICE}{WATCHED}"
    in_the_way = {
        "PREFECT_PROFILE": "no-such-profile",
        "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////proc/nowhere.db",
        "ALL_PROXY": "socks5://127.0.0.1:9",
    }
    here = spoil(tmp_path / "here")
    done = python("-c", code, json.dumps(commands), environment=environment, cwd=here, **in_the_way)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    needs_torch = {words[0]: words[0] != "prepare" for words in commands}
    assert found == {name: [0, [], [], needed] for name, needed in needs_torch.items()}, done.stderr[-3000:]
    assert list((tmp_path / "home").iterdir()) == []
    assert not (tmp_path / "prefect home").exists()
    assert "nothing is trained: 0 new or changed cases" in done.stdout  # `run` had nothing to do, either


def missing(folder: Path) -> list[str]:
    """The words of a command whose archive is not there."""
    images, output = str(folder / "i"), str(folder / "o")
    return ["prepare", "--images_path", images, "--zonal_mask_path", images, "--output_path", output]


@pytest.mark.parametrize("size", ["2", "", "abc"])
def test_ranks_of_another_launcher_do_not_matter(size: str, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "SSL").mkdir()
    commands = [missing(tmp_path), ["verify", "--output", str(tmp_path)], ["versions", "--output", str(tmp_path)]]
    left_over = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    done = python("-c", ONE_BY_ONE, json.dumps(commands), environment=environment, cwd=tmp_path, **left_over)
    assert done.stdout == 3 * "exit 1\n"
    errors = errors_of(done)
    assert len(errors) == 3
    assert all(str(tmp_path) in error for error in errors)


@pytest.mark.parametrize("form", ["package", "module", "folder"])
def test_flows_tasks_and_deployments_of_others_do_not_matter(
    form: str, environment: dict[str, str], tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    for name in ("flows", "tasks", "deployments"):
        (theirs / name).mkdir(parents=True)
        if form == "module":
            (theirs / f"{name}.py").write_text("raise SystemExit('theirs')\n")
        elif form == "package":
            (theirs / name / "__init__.py").write_text("")
    weights = LocalStorage(Layout(str(tmp_path / "root")).weights)
    add(weights, RUNS[0])
    path = f"{theirs}{os.pathsep}{ROOT}"
    commands = json.dumps([missing(tmp_path), ["versions", "--output", str(tmp_path / "root")]])
    done = python("-c", ONE_BY_ONE, commands, environment=environment, cwd=tmp_path, PYTHONPATH=path)
    assert "no such folder" in errors_of(done)[0]
    refused, listed = done.stdout.split("exit ")[1:]
    assert refused.startswith("1\n") and RUNS[0] in refused  # what the second printed comes before its status
    assert listed == "0\n"
    if form == "package":
        code = """
import sys; sys.argv[1:] = ["status"]
from zssmnet.__main__ import service
service()
import deployments.setup, deployments.stack
print(deployments.setup.__file__, deployments.stack.__file__)
"""
        done = python("-c", code, environment=environment, cwd=tmp_path, PYTHONPATH=path)
        assert done.stdout.splitlines()[-1].split() == [
            str(ROOT / "deployments" / f"{name}.py") for name in ("setup", "stack")
        ]
        assert "Traceback" not in done.stderr
        assert "unexpected" not in done.stderr


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["ascii"])
def test_a_locale_with_ascii_alone_ends_in_a_line(
    locale: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "Prüfung").mkdir()
    done = python("-m", "zssmnet", *missing(tmp_path / "Prüfung"), environment=environment, cwd=tmp_path, **locale)
    assert done.returncode in (1, 2)
    assert error_of(done).isascii()


class Terminal:
    """What a command shows in a terminal."""

    def __init__(self, words: Sequence[str], environment: dict[str, str]) -> None:
        self._seen = bytearray()
        code = (
            "import os, sys, json; os.environ.clear(); os.environ.update(json.loads(sys.argv[1])); "
            "os.execv(sys.executable, [sys.executable, '-P', '-m', 'zssmnet', *sys.argv[2:]])"
        )
        inside = environment | {"TERM": "xterm", "COLUMNS": "120"}
        self.status = pty.spawn([sys.executable, "-c", code, json.dumps(inside), *words], self._read)
        self.text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self._seen.decode())

    def _read(self, terminal: int) -> bytes:
        found = os.read(terminal, 65536)
        self._seen.extend(found)
        return found


def test_a_terminal_sees_bars_with_warnings_above_them_and_others_lines(
    environment: dict[str, str], tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "archive")
    for number in range(3):
        archive.add(f"{10001 + number}_{1000001 + number}", seed=number)
    archive.image_path(1, "10002_1000002").write_bytes(b"no image")
    words = ["prepare", "--images_path", archive.images.uri, "--zonal_mask_path", archive.masks.uri, "--output_path"]
    line = re.compile(r"\d\d:\d\d:\d\d\.\d{3} \| (INFO|WARNING)\s+\| ")

    terminal = Terminal([*words, str(tmp_path / "terminal")], environment)
    assert terminal.status == 0, terminal.text
    assert re.search(r"prepare +.* 3/3 0:00:\d\d", terminal.text)
    assert "10002_1000002 is left out" in terminal.text
    assert {found[1] for found in line.finditer(terminal.text)} == {"WARNING"}

    verbose = Terminal([*words, str(tmp_path / "verbose"), "--verbose"], environment)
    assert verbose.status == 0, verbose.text
    elsewhere = python("-m", "zssmnet", *words, tmp_path / "elsewhere", environment=environment, cwd=tmp_path)
    for shown in (verbose.text, elsewhere.stderr):
        assert {found[1] for found in line.finditer(shown)} == {"INFO", "WARNING"}
        assert "3/3" not in shown
    last = f"2 cases prepared, 0 up to date, 1 left out: {tmp_path / 'elsewhere'}\n"
    assert (elsewhere.returncode, elsewhere.stdout) == (0, last)
