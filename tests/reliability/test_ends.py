"""SIGTERM and SIGINT end a run in order, with one line; whichever way a run ends, no process of it is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.ledger import Ledger

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]
PATIENCE_S = 900
FIRST_FILES = {
    "preparation": "SSL/data/subset*/*",
    "cubes": "SSL/generated_cubes/*.npy",
    "training": "SSL/pretrained_weights/training/*/last.checkpoint",
    "publication": "SSL/pretrained_weights/versions/*/*.model",
}
FAULTS = {signal.SIGTERM: "asked to end (SIGTERM)", signal.SIGINT: "interrupted (SIGINT)"}
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}
LAST_LINE = {
    signal.SIGTERM: "zssmnet: terminated; the same command continues where it stopped",
    signal.SIGINT: "zssmnet: interrupted; the same command continues where it stopped",
}
MARK = "ZSSMNET_TEST_RUN"


class Run:
    """A run, and all processes that come of it, known by a mark in their environment."""

    def __init__(self, archive: Path, root: Path, environment: dict[str, str]) -> None:
        words = ["--images_path", archive / "nnunet_raw", "--zonal_mask_path", archive / "zonal_masks"]
        words += ["--config", archive / "quick.toml", "--output", root]
        self.root = root
        self._mark = f"{MARK}={root}"
        self._process = subprocess.Popen(
            # SIGINT is ignored by what is started in the background
            ["env", "--default-signal=INT", sys.executable, "-m", "flows.cli", "run", *map(str, words)],
            env=environment | {MARK: str(root), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, files: str) -> None:
        """Wait until there is a file of this pattern."""
        deadline = time.monotonic() + PATIENCE_S
        while not [*self.root.glob(files)]:
            assert self._process.poll() is None, "it ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self, how: signal.Signals) -> tuple[int, str]:
        """Send a signal: exit status and what was said."""
        self._process.send_signal(how)
        said, _ = self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode, said

    def nothing_left(self) -> bool:
        """Whether all its processes end, within patience."""
        deadline = time.monotonic() + PATIENCE_S
        while any(self._processes()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _processes(self) -> Iterator[str]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark in (folder / "environ").read_text(errors="replace").split("\0"):
                    yield folder.name
            except OSError:  # it has ended, or is another user's
                continue


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    small_archive(folder)
    (folder / "quick.toml").write_text(QUICK_SETTINGS)
    return folder


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a command starts a server of its own."""
    home = tmp_path_factory.mktemp("prefect")
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return environment | {"PREFECT_HOME": str(home)}


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_run_ends_in_order(
    how: signal.Signals, archive: Path, tmp_path: Path, prefect_api: str, ledger: Ledger
) -> None:
    run = Run(archive, tmp_path / "root", os.environ | {"PREFECT_API_URL": prefect_api})
    with ledger.tried("preparation on a folder", FAULTS[how]):
        _ends_in_order(run, how, "preparation")


@pytest.mark.long
@pytest.mark.parametrize("stage", FIRST_FILES)
@pytest.mark.parametrize("how", FAULTS)
def test_a_run_with_its_own_server_ends_in_order(
    how: signal.Signals, stage: str, archive: Path, tmp_path: Path, embedded: dict[str, str], ledger: Ledger
) -> None:
    run = Run(archive, tmp_path / "root", embedded)
    with ledger.tried(f"{stage} on a folder", FAULTS[how]):
        _ends_in_order(run, how, stage)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["preparation", "training"])
def test_a_killed_run_leaves_no_server(
    stage: str, archive: Path, tmp_path: Path, embedded: dict[str, str], ledger: Ledger
) -> None:
    run = Run(archive, tmp_path / "root", embedded)
    with ledger.tried("embedded server", "its command killed (SIGKILL)"):
        run.wait_for(FIRST_FILES[stage])
        assert run.end(signal.SIGKILL)[0] == -signal.SIGKILL
        assert run.nothing_left()


def _ends_in_order(run: Run, how: signal.Signals, stage: str) -> None:
    run.wait_for(FIRST_FILES[stage])
    status, said = run.end(how)
    assert status == STATUS[how], said
    assert said.splitlines().count(LAST_LINE[how]) == 1, said
    assert "Traceback" not in said
    assert run.nothing_left()
    assert not [*run.root.rglob(".partial")]
