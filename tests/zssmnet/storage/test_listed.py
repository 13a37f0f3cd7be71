"""A listing answers what lies where; what has changed since is read as it is now."""

from pathlib import Path

import pytest

from tests.zssmnet.examinations import Archive
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.errors import StorageError
from zssmnet.preparation.prepare import publish_prepared
from zssmnet.registry.changes import find_changes
from zssmnet.storage import Entry, LocalStorage, Storage, open_storage
from zssmnet.storage.interface import Listed


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    found = open_storage(request.getfixturevalue("s3_root") if request.param == "s3" else tmp_path / "root")
    found.publish_bytes("a/one", b"1")
    found.publish_bytes("two", b"22")
    return found


def test_it_shows_what_was_there(storage: Storage):
    listed = Listed(storage)
    storage.publish_bytes("three", b"333")
    assert listed.list() == [one for one in storage.list() if one.key != "three"]
    assert [entry.key for entry in listed.list("a")] == ["a/one"]
    assert listed.stat("two") == storage.stat("two")
    assert listed.stat("three") is None
    assert listed.read("a/one") == b"1"
    with pytest.raises(StorageError, match="three: no such file"):
        listed.local("three")


def test_of_some_files_alone(storage: Storage):
    listed = Listed(storage, ["two", "four"])
    assert listed.list() == [storage.stat("two")]
    assert listed.read("two") == b"22"


def test_a_file_that_has_changed_since_is_read_as_it_is(storage: Storage):
    listed = Listed(storage)
    storage.publish_bytes("two", b"another")
    storage.remove("a/one")
    assert listed.read("two") == b"another"
    with pytest.raises(StorageError):
        listed.read("a/one")


class Asked(LocalStorage):
    """Counts the files that are asked for one by one."""

    count = 0

    def stat(self, key: str) -> Entry | None:
        Asked.count += 1
        return super().stat(key)


def test_changes_are_found_without_asking_for_each_file(tmp_path: Path):
    archive, config, subset_of = Archive(tmp_path), PreparationConfig(margin_mm=3.5), {"1_1": 0, "2_1": 5}
    for case_id in subset_of:
        archive.add(case_id)
    cases = take_inventory(archive.images, archive.masks).cases
    data = LocalStorage(tmp_path / "data")
    for case in cases:
        publish_prepared(case, subset_of[case.id], archive.images, archive.masks, data, config)
    images, masks, output = (Asked(one.folder) for one in (archive.images, archive.masks, data))
    changes = find_changes(cases, subset_of, images, masks, output, None, config)
    assert ([one.case_id for one in changes.up_to_date], Asked.count) == (["1_1", "2_1"], 0)
