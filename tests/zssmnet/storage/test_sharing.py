"""What a machine on which a disk is not mounted must not do: take its files for missing, or lose what it publishes."""

from pathlib import Path

import pytest

from zssmnet.config import CubesConfig, PreparationConfig
from zssmnet.data.archive import Case
from zssmnet.errors import StorageError
from zssmnet.stages.cubes import SubsetToCut, cut_part
from zssmnet.stages.prepare import CaseToPrepare, prepare_part
from zssmnet.storage import LocalStorage
from zssmnet.storage.records import record_key
from zssmnet.storage.sharing import check_outputs_visible, check_visible


@pytest.fixture
def full(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "full")
    storage.publish_bytes("file", b"content")
    return storage


@pytest.fixture(params=["absent", "empty"])
def unseen(request: pytest.FixtureRequest, tmp_path: Path) -> LocalStorage:
    folder = tmp_path / request.param
    if request.param == "empty":
        folder.mkdir()
    return LocalStorage(folder)


def test_inputs_that_are_there_are_seen(full: LocalStorage) -> None:
    check_visible(full, full)


def test_a_folder_that_is_not_mounted_is_no_folder_of_missing_files(full: LocalStorage, unseen: LocalStorage) -> None:
    with pytest.raises(StorageError, match=f"^{unseen.uri}: not there, or empty, on .*; let all machines see"):
        check_visible(full, unseen)


def test_parts_stop_there(full: LocalStorage, unseen: LocalStorage, tmp_path: Path) -> None:
    case = Case("1_1", "nnunet", ("a", "b", "c"), "mask")
    output = str(tmp_path / "output")
    for images, masks in ((full, unseen), (unseen, full)):
        with pytest.raises(StorageError, match="not there, or empty"):
            prepare_part(CaseToPrepare(case, 0, images.uri, masks.uri, output, PreparationConfig()))
    with pytest.raises(StorageError, match="not there, or empty"):
        cut_part(SubsetToCut(0, unseen.uri, output, CubesConfig()))
    assert not Path(output).exists()


def test_what_has_arrived_is_seen_by_its_records(full: LocalStorage) -> None:
    full.publish_bytes(record_key("1_1"), b"{}")
    check_outputs_visible(full, ["1_1"])
    with pytest.raises(StorageError, match=rf"^{full.uri}: was written by tasks elsewhere, .*: 2_2; let all machines"):
        check_outputs_visible(full, ["1_1", "2_2"])
