"""``zssmnet clean`` shows what is no longer needed before it removes it, and removes nothing else."""

from pathlib import Path

import pytest

from flows import cli
from tests.zssmnet.registry.test_versions import RUNS, add, model_of
from zssmnet.registry.versions import list_versions, roll_back
from zssmnet.storage import LocalStorage
from zssmnet.storage.layout import Layout

OLD, BEFORE, STABLE = RUNS
GOING = "0123456789ab"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three published models, their checkpoints, and a training that goes on."""
    weights = LocalStorage(Path(Layout(str(tmp_path / "root")).weights))
    for run_id in RUNS:
        add(weights, run_id)
    for run_id in (*RUNS, GOING):
        weights.publish_bytes(f"training/{run_id}/last.checkpoint", bytes(1000))
    return tmp_path / "root"


@pytest.fixture
def weights(root: Path) -> LocalStorage:
    return LocalStorage(Path(Layout(str(root)).weights))


def test_the_command_shows_before_it_removes(
    root: Path, weights: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    def clean(*more: str) -> str:
        with pytest.raises(SystemExit) as exit:
            cli.main(["clean", "--output", str(root), *more])
        assert exit.value.code == 0
        return capsys.readouterr().out

    shown = clean()
    assert f"versions/{OLD}" in shown
    assert "nothing is removed: give --yes to remove 4 folders" in shown
    assert len(list_versions(weights)) == 3
    assert "4 folders are removed" in clean("--yes")
    assert len(list_versions(weights)) == 2
    assert "nothing to remove" in clean()
    assert [one.run_id for one in list_versions(weights)] == [BEFORE, STABLE]
    assert weights.read(f"training/{GOING}/last.checkpoint") == bytes(1000)
    assert GOING in clean("--unpublished")
    assert "1 folder is removed" in clean("--unpublished", "--yes")
    assert roll_back(weights).run_id == BEFORE
    assert weights.read("ssl_mnet_zonal.model") == model_of(BEFORE)
