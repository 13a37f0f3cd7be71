"""A run that is killed at any moment and started again ends with the files of an undisturbed one."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.phantoms import QUICK_SETTINGS, small_archive

pytestmark = pytest.mark.integration
KILLS = 5
PATIENCE_S = 120


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("archive")
    images, masks = small_archive(folder)
    settings = folder / "quick.toml"
    settings.write_text(QUICK_SETTINGS)
    return ["--images_path", str(images), "--zonal_mask_path", str(masks), "--config", str(settings)]


def start(archive: list[str], root: Path, api: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flows.cli", "run", *archive, "--output", str(root)]
    environment = os.environ | {"PREFECT_API_URL": api, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def visible_files(root: Path) -> dict[str, str]:
    """Content of all files under their final names but the logs, which tell the time."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): content(path)
        for path in files
        if not {".partial", "tensorboard"} & set(path.parts)
    }


def content(path: Path) -> str:
    """SHA-256 of a file; of a record, which tells when its inputs were written, without these times."""
    data = path.read_bytes()
    if path.parent.name == "records":
        record = json.loads(data)
        for one in record["inputs"]:
            del one["version"]
        data = json.dumps(record).encode()
    return hashlib.sha256(data).hexdigest()


def test_killed_runs_end_with_the_same_files(archive: list[str], tmp_path: Path, prefect_api: str) -> None:
    undisturbed = start(archive, tmp_path / "undisturbed", prefect_api)
    _, log = undisturbed.communicate(timeout=PATIENCE_S)
    assert undisturbed.returncode == 0, log.decode()[-2000:]
    expected = visible_files(tmp_path / "undisturbed")
    assert any(name.endswith(".model") for name in expected)

    root = tmp_path / "killed"
    seen = 0
    for moment in moments():
        run = start(archive, root, prefect_api)
        seen = wait_for_progress(run, root, seen)
        time.sleep(moment)
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=PATIENCE_S)
        assert_whole(root, expected)

    last = start(archive, root, prefect_api)
    _, log = last.communicate(timeout=PATIENCE_S)
    assert last.returncode == 0, log.decode()[-2000:]
    assert visible_files(root) == expected
    assert not list(root.rglob(".partial"))


def moments() -> list[float]:
    """How long after its first new file each run is killed, in seconds."""
    drawn = random.Random(int(os.environ.get("ZSSMNET_KILL_SEED", "1")))
    return [drawn.uniform(0, 2) for _ in range(KILLS)]


def wait_for_progress(run: subprocess.Popen[bytes], root: Path, seen: int) -> int:
    """Wait until a run has published something new, or has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and run.poll() is None:
        count = sum(1 for path in root.rglob("*") if path.is_file() and ".partial" not in path.parts)
        if count > seen:
            return count
        time.sleep(0.02)
    return seen


def assert_whole(root: Path, expected: dict[str, str]) -> None:
    """Whatever is visible is what an undisturbed run publishes there, or an earlier record or checkpoint, whole."""
    for name, digest in visible_files(root).items():
        if name.endswith((".checkpoint", "best.model")):
            assert "state_dict" in torch.load(root / name, weights_only=True)
        elif Path(name).parent.name == "records":
            assert "outputs" in json.loads((root / name).read_text())
        else:
            assert digest == expected[name], f"{name} is half-written or wrong"
