"""What is no longer needed goes, and nothing else; nothing goes while a run works in it."""

from pathlib import Path

import pytest

from flows import cli
from tests.zssmnet.registry.test_versions import RUNS, add, model_of
from zssmnet.errors import LockedError
from zssmnet.registry.clean import Removable, removable, remove
from zssmnet.registry.versions import list_versions, roll_back, stable_model
from zssmnet.storage import LocalStorage
from zssmnet.storage.layout import Layout
from zssmnet.storage.lock import locked

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


def folders(items: list[Removable]) -> set[str]:
    return {one.folder for one in items}


def test_the_stable_model_the_one_before_and_unfinished_trainings_stay(weights: LocalStorage) -> None:
    found = removable(weights)
    assert folders(found) == {f"versions/{OLD}"} | {f"training/{run_id}" for run_id in RUNS}
    assert folders(removable(weights, unfinished=True)) - folders(found) == {f"training/{GOING}"}
    assert {one.folder: (one.size, one.files) for one in found}[f"training/{OLD}"] == (1000, 1)
    remove(weights, found)
    assert removable(weights) == []
    assert [one.run_id for one in list_versions(weights)] == [BEFORE, STABLE]
    assert weights.read(f"training/{GOING}/last.checkpoint") == bytes(1000)
    assert roll_back(weights).run_id == BEFORE
    assert weights.read("ssl_mnet_zonal.model") == model_of(BEFORE)


def test_what_is_needed_meanwhile_stays(weights: LocalStorage) -> None:
    found = removable(weights)
    roll_back(weights, OLD)
    remove(weights, found)
    stable = stable_model(weights)
    assert stable
    assert stable.run_id == OLD
    assert OLD in {one.run_id for one in list_versions(weights)}


def test_nothing_goes_while_a_run_works_there(weights: LocalStorage) -> None:
    found = [one for one in removable(weights, unfinished=True) if one.folder == f"training/{GOING}"]
    with locked(weights.child(f"training/{GOING}")), pytest.raises(LockedError):
        remove(weights, found)
    assert weights.read(f"training/{GOING}/last.checkpoint")


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
