"""`zssmnet import-dicom`: what it says, and where it refuses."""

from pathlib import Path

import pytest

from tests.reliability.command import Ended, zssmnet
from tests.zssmnet.data.dicom_files import PATIENT, T2W, change, series, voxels, whole_study


class Import:
    """A folder of DICOM files, and a key beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, folder / "import.key"
        self.key.write_text("k" * 32)
        whole_study(folder / "dicom" / "Doe_Jane")

    def run(self, *more: str | Path, ids: tuple[str | Path, ...] | None = None) -> Ended:
        words = ["--dicom_path", self.folder / "dicom", "--output", self.folder / "archive"]
        return zssmnet("import-dicom", *words, *(("--key-file", self.key) if ids is None else ids), *more)


@pytest.fixture
def one(tmp_path: Path) -> Import:
    return Import(tmp_path)


def test_it_counts_cases_and_files_and_names_the_table(one: Import) -> None:
    (one.folder / "dicom" / "notes.txt").write_text("foreign")
    ended = one.run()
    archive = one.folder / "archive"
    assert ended.status == 0
    assert ended.out.splitlines() == [
        "files passed over: 1 no DICOM file",
        f"1 cases imported, 0 left out: {archive} (why: {archive / 'choices.csv'})",
    ]
    assert len(list(archive.rglob("*.mha"))) == 3


def test_nothing_that_it_says_identifies_the_patient(one: Import) -> None:
    series(one.folder / "dicom" / "Doe", 20, voxels(3), (0, 3, 9, 12, 15), **T2W)
    for file in (one.folder / "dicom").rglob("007_*"):
        file.write_bytes(file.read_bytes()[:-20])
    ended = one.run()
    assert ended.status == 1
    for secret in (*PATIENT.values(), "Doe", "Jane", "4711", "20110707"):
        assert secret not in ended.out + ended.err


def test_a_key_in_the_archive_is_refused(one: Import) -> None:
    (one.folder / "archive").mkdir()
    inside = one.key.rename(one.folder / "archive" / "key")
    assert "the key lies in the archive; keep it elsewhere" in one.run(ids=("--key-file", inside)).line
    missing = one.run(ids=("--key-file", one.key)).line
    assert f"{one.key}: no such file; make a key with: openssl rand -hex 32 > {one.key}" in missing


@pytest.mark.parametrize("both", [False, True])
def test_ids_come_from_one_place(one: Import, both: bool) -> None:
    ended = one.run(ids=("--key-file", one.key, "--ids", one.key) if both else ())
    assert ended.status == 2
    assert ended.line.endswith(": error: new ids come either from --key-file or from --ids; give one of them")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--overrides", "by_hand.toml"), "overrides of 1 cases that are not there: 1_1"),
        (("--high-b", "-5"), "high_b = -5.0: Input should be greater than 0"),
    ],
)
def test_what_cannot_be_is_one_line(
    one: Import, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(one.folder)
    Path("by_hand.toml").write_text("[1_1]\nt2w = 4\n")
    ended = one.run(*more)
    assert ended.status in (1, 2)
    assert words in ended.line


def test_a_folder_that_is_not_there_is_one_line(one: Import) -> None:
    (one.folder / "dicom").rename(one.folder / "elsewhere")
    assert "holds no MR image (it is empty, or is not there)" in one.run().line


def test_a_tree_without_a_case_is_a_short_line(one: Import) -> None:
    for file in (one.folder / "dicom").rglob("00[478]_*"):
        file.unlink()
    for number in range(20, 50):
        series(one.folder / "dicom", number, voxels(3, 4), (0, 3, 6, 12), **T2W)
    ended = one.run()
    assert ended.status == 1
    assert "no T2W image is whole: series 20 (T2W, 4 slices) lacks 1 slice" in ended.line
    assert "choices.csv" in ended.line
    assert len(ended.line) < 600


def test_patients_who_share_a_study_are_kept_apart_with_a_warning(one: Import) -> None:
    for file in (one.folder / "dicom").rglob("008_*"):
        change(file, PatientID="ANOTHER-1")
    ended = one.run()
    assert ended.status == 1
    assert "shares its StudyInstanceUID with another patient, and is kept apart: no axial" in ended.line
    assert "ANOTHER-1" not in ended.line
