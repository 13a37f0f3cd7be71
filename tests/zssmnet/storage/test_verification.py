"""The versions of the weights, each a stage of its own; the command is tested with the flows."""

import json
from pathlib import Path

import pytest

from tests.zssmnet.registry.test_versions import add
from zssmnet.errors import VerificationError
from zssmnet.registry.versions import MODEL, version_key
from zssmnet.storage import LocalStorage
from zssmnet.storage.layout import Layout
from zssmnet.storage.records import record_key
from zssmnet.storage.verification import verify_root


@pytest.fixture
def weights(tmp_path: Path) -> LocalStorage:
    """Two versions, the second one stable, and checkpoints."""
    weights = LocalStorage(Layout(str(tmp_path)).weights)
    weights.folder.mkdir(parents=True)
    add(weights, "aaaa")
    add(weights, "bbbb")
    weights.publish_bytes("training/bbbb/best.model", b"")
    for file in weights.folder.parent.glob("pretrained_weights/best of *"):
        file.unlink()
    return weights


def findings(root: Path, weights: LocalStorage) -> list[tuple[str, str]]:
    prefix = weights.where("")
    return [(finding.kind, finding.file.removeprefix(prefix)) for finding in verify_root(str(root))]


def test_versions_are_no_foreign_files(tmp_path: Path, weights: LocalStorage) -> None:
    assert findings(tmp_path, weights) == []


def test_what_is_wrong_with_a_version(tmp_path: Path, weights: LocalStorage) -> None:
    weights.local(version_key("aaaa")).write_bytes(b"The weights of aaaa")
    weights.remove(version_key("bbbb"))
    weights.publish_bytes("versions/bbbb/left", b"")
    weights.publish_bytes("versions/cccc/ssl_mnet_zonal.model", b"")
    weights.publish_bytes("versions/file", b"")
    assert findings(tmp_path, weights) == [
        ("foreign", "versions/file"),
        ("changed", version_key("aaaa")),
        ("missing", version_key("bbbb")),
        ("foreign", "versions/bbbb/left"),
        ("foreign", version_key("cccc")),
    ]


def test_hidden_folders_are_set_apart(tmp_path: Path, weights: LocalStorage) -> None:
    for key in (".held/lease", "versions/aaaa/.held/lease", "versions/.held/lease", ".lock/owner.json"):
        weights.publish_bytes(key, b"")
    assert findings(tmp_path, weights) == []


def test_the_training_folder_is_set_apart_in_the_weights_alone(tmp_path: Path, weights: LocalStorage) -> None:
    data = LocalStorage(Layout(str(tmp_path)).data)
    data.publish_bytes("training/notes", b"")
    weights.publish_bytes("versions/aaaa/training/notes", b"")
    found = [(finding.kind, finding.file) for finding in verify_root(str(tmp_path))]
    assert found == [
        ("foreign", data.where("training/notes")),
        ("foreign", weights.where("versions/aaaa/training/notes")),
    ]


def test_a_record_of_a_later_version_is_still_true(tmp_path: Path, weights: LocalStorage) -> None:
    later = json.loads(weights.read(record_key(MODEL))) | {"method": 99, "history": "elsewhere", "more": {"a": 1}}
    weights.publish_bytes(record_key(MODEL), json.dumps(later).encode())
    assert findings(tmp_path, weights) == []
    weights.publish_bytes(MODEL, b"The weights of bbbb")
    assert findings(tmp_path, weights) == [("changed", MODEL)]


@pytest.mark.parametrize("key", ["../../elsewhere", "/etc/hostname", "a\nb", "", "x" * 300])
def test_a_record_that_names_what_cannot_lie_there(key: str, tmp_path: Path, weights: LocalStorage) -> None:
    reported = json.loads(weights.read(record_key(MODEL)))
    reported["outputs"][0]["key"] = key
    weights.publish_bytes(record_key(MODEL), json.dumps(reported).encode())
    assert findings(tmp_path, weights) == [("changed", record_key(MODEL)), ("foreign", MODEL)]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that cannot be read")
def test_a_file_that_the_system_cannot_read_does_not_hide_the_others(tmp_path: Path, weights: LocalStorage) -> None:
    reported = json.loads(weights.read(record_key(MODEL)))
    reported["outputs"][0]["size"] = 0
    weights.publish_bytes(record_key(MODEL), json.dumps(reported).encode())
    weights.remove(MODEL)
    weights.local(record_key(MODEL)).parents[1].joinpath(MODEL).symlink_to("/proc/self/mem")
    weights.publish_bytes("notes", b"")
    assert findings(tmp_path, weights) == [("unreadable", MODEL), ("foreign", "notes")]


def test_an_unreadable_record_of_a_version(tmp_path: Path, weights: LocalStorage) -> None:
    key = f"versions/aaaa/{record_key(MODEL)}"
    weights.publish_bytes(key, b"{")
    assert findings(tmp_path, weights) == [("changed", key), ("foreign", version_key("aaaa"))]


def test_a_file_in_place_of_a_stage_is_named(tmp_path: Path, weights: LocalStorage) -> None:
    cubes = Path(Layout(str(tmp_path)).cubes)
    cubes.touch()
    with pytest.raises(VerificationError, match=rf"{cubes}: is a file, not the folder"):
        verify_root(str(tmp_path))
