"""What can be removed from a folder of weights, and that nothing else is."""

from pathlib import Path

import pytest

from tests.model_record import model_record
from tests.zssmnet.interruption import Killed, MortalStorage, traces
from zssmnet.registry.clean import Removable, removable, remove
from zssmnet.registry.versions import MODEL, find_version, list_versions, publish, roll_back, stable_model
from zssmnet.storage import LocalStorage, Storage, open_storage
from zssmnet.storage.lock import locked
from zssmnet.storage.verification import verify_stage

RUNS = ("aaaa", "bbbb", "cccc", "dddd")


def fill(weights: Storage, folder: Path) -> None:
    """Four versions with their checkpoints, of which the last is the stable model, and a run that is not published."""
    for run_id in RUNS:
        file = folder / "best.model"
        file.write_bytes(run_id.encode() * 100)
        publish(weights, model_record(run_id), file)
    for run_id in (*RUNS, "eeee"):
        weights.publish_bytes(f"training/{run_id}/last.checkpoint", bytes(1000))
        weights.publish_bytes(f"training/{run_id}/tensorboard/events", bytes(24))


IN_FEW = pytest.mark.parametrize("weights", ["folder", pytest.param("S3", marks=pytest.mark.long)], indirect=True)


@pytest.fixture(params=["folder", "S3"])
def weights(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    root = request.getfixturevalue("s3_root") if request.param == "S3" else tmp_path / "weights"
    weights = open_storage(root)
    fill(weights, tmp_path)
    return weights


def found(weights: Storage) -> list[tuple[str, str]]:
    return [(one.kind, one.run_id) for one in removable(weights)]


def test_all_but_the_stable_version_and_its_predecessor(weights: Storage) -> None:
    items = removable(weights)
    runs = [("published", run_id) for run_id in RUNS] + [("unpublished", "eeee")]
    assert [(one.kind, one.run_id) for one in items] == [*runs, ("version", "aaaa"), ("version", "bbbb")]
    assert items[0] == Removable("published", "aaaa", "training/aaaa", 1024)
    assert all(one.size == sum(entry.size for entry in weights.list(one.folder)) for one in items)
    assert remove(weights, items) == items
    assert removable(weights) == []
    assert not weights.list("training")
    assert [one.run_id for one in list_versions(weights)] == ["cccc", "dddd"]
    assert verify_stage(weights) == []
    assert roll_back(weights).run_id == "cccc"
    assert weights.read(MODEL) == b"cccc" * 100


@IN_FEW
def test_what_is_chosen_alone(weights: Storage) -> None:
    before = {entry.key for entry in weights.list()}
    (chosen,) = [one for one in removable(weights) if one.folder == "versions/aaaa"]
    assert remove(weights, [chosen]) == [chosen]
    assert before - {entry.key for entry in weights.list()} == {
        f"versions/aaaa/{MODEL}",
        f"versions/aaaa/records/{MODEL}.json",
    }


@IN_FEW
def test_what_was_needed_since_it_was_found_stays(weights: Storage) -> None:
    items = removable(weights)
    roll_back(weights, "bbbb")
    remove(weights, items)
    assert stable_model(weights) == find_version(weights, "bbbb")
    assert [one.run_id for one in list_versions(weights)] == list(RUNS)  # those found now are not those found before


def test_a_run_that_is_locked_stays(weights: Storage) -> None:
    items = removable(weights)
    with locked(weights.child("training/eeee")):
        assert ("unpublished", "eeee") not in found(weights)
        assert "eeee" not in {one.run_id for one in remove(weights, items)}
    assert found(weights) == [("unpublished", "eeee")]


@IN_FEW
def test_versions_stay_where_nothing_is_known_about_the_stable_model(weights: Storage) -> None:
    weights.publish_bytes(MODEL, b"foreign")
    assert {kind for kind, _ in found(weights)} == {"published", "unpublished"}
    weights.remove(MODEL)
    assert {kind for kind, _ in found(weights)} == {"published", "unpublished"}


@IN_FEW
def test_foreign_files_stay(weights: Storage) -> None:
    for key in ("training/notes.txt", "versions/notes.txt", "notes.txt"):
        weights.publish_bytes(key, b"x")
    remove(weights, removable(weights))
    keys = {entry.key for entry in weights.list()}
    assert {"training/notes.txt", "versions/notes.txt", "notes.txt"} <= keys


def test_of_nothing(tmp_path: Path) -> None:
    weights = LocalStorage(tmp_path / "weights")
    assert removable(weights) == []
    assert remove(weights, []) == []
    assert traces(tmp_path) == {}


def test_killed_at_any_change_the_next_one_removes_the_rest(tmp_path: Path) -> None:
    for changes in range(100):
        folder = tmp_path / f"killed{changes}"
        folder.mkdir()
        fill(LocalStorage(folder / "weights"), folder)
        dying = MortalStorage(folder / "weights", changes)
        try:
            remove(dying, removable(dying))
        except Killed:
            weights = LocalStorage(folder / "weights")
            assert {finding.kind for finding in verify_stage(weights, ["training/"])} <= {"foreign"}
            remove(weights, removable(weights))
        else:
            assert changes == 2 * 5 + 2 * 2
            return
        assert found(weights) == []
        assert {entry.key.split("/")[1] for entry in weights.list("versions")} == {"cccc", "dddd"}
        assert not weights.list("training")
    pytest.fail("it is never done")
