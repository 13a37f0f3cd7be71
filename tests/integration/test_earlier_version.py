"""A working root that the program of an earlier commit has made is verified, and its training continued."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.phantoms import QUICK_SETTINGS, small_archive
from zssmnet.registry.versions import MODEL, list_versions, stable_model
from zssmnet.storage import LocalStorage, sha256_of

ROOT = Path(__file__).resolve().parents[2]
EARLIER = {
    "c87b835": "before records had versions of outputs, conditional writes as locks, optimizers, schedules, precisions",
    "e428594": "before there was one pipeline: commands were flows with a server of their own",
}
MAIN = "import sys; from flows.cli import main; sys.exit(main())"


@pytest.fixture(params=EARLIER)
def earlier(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with the earlier program."""
    archive = tmp_path / "earlier.tar"
    command = ["git", "archive", "--output", str(archive), request.param, "zssmnet", "tasks", "flows"]
    if subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip(f"commit {request.param} is not here: a shallow clone, or no clone")
    with tarfile.open(archive) as files:
        files.extractall(tmp_path / "earlier", filter="data")
    (tmp_path / "earlier" / "commit").write_text(request.param)
    return tmp_path / "earlier"


def zssmnet(code: Path, folder: Path, *arguments: str | Path, **variables: str) -> str:
    """Run a command of the program in a folder; what it has written."""
    command = [sys.executable, "-P", "-c", MAIN, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(code)} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(1200)
def test_is_verified_and_continued(earlier: Path, tmp_path: Path, prefect_api: str) -> None:
    images, masks = small_archive(tmp_path / "archive")
    root = tmp_path / "root"
    for epochs in (2, 3):
        settings = QUICK_SETTINGS.replace("epochs = 2", f"epochs = {epochs}")
        (tmp_path / f"{epochs}.toml").write_text(settings)
    run = ("run", "--images_path", images, "--zonal_mask_path", masks, "--output", root, "--config")

    zssmnet(earlier, tmp_path, *run, tmp_path / "2.toml", PREFECT_API_URL=prefect_api)
    weights = LocalStorage(root / "SSL/pretrained_weights")
    (output,) = json.loads(weights.read(f"records/{MODEL}.json"))["outputs"]
    assert ("version" in output) == ((earlier / "commit").read_text() != "c87b835")
    made = stable_model(weights)
    assert made
    assert len(made.history) == 2
    files = {path: sha256_of(path) for stage in ("data", "generated_cubes") for path in _files(root / "SSL" / stage)}
    assert len(files) == 6 * 4 + 6
    zssmnet(ROOT, tmp_path, "verify", "--output", root)

    zssmnet(ROOT, tmp_path, *run, tmp_path / "3.toml")
    continued = stable_model(weights)
    assert continued
    assert continued.run_id == made.run_id
    assert continued.history[:2] == made.history
    assert len(continued.history) == 3
    assert [version.run_id for version in list_versions(weights)] == [made.run_id]
    assert {path: sha256_of(path) for path in files} == files
    zssmnet(ROOT, tmp_path, "verify", "--output", root)


def _files(stage: Path) -> list[Path]:
    return [path for path in stage.rglob("*") if path.suffix in (".gz", ".npy")]
