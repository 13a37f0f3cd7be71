"""DICOM files to an archive: choice of series, volumes, ids, and that nothing identifies a patient."""

import csv
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage, generate_uid

from tests.zssmnet.data.dicom_files import (
    ADC,
    DWI,
    PATIENT,
    T2W,
    change,
    multi_frame,
    series,
    voxels,
    whole_study,
)
from tests.zssmnet.interruption import leave_half_written
from zssmnet.config import SeriesConfig
from zssmnet.data.archive import take_inventory
from zssmnet.data.case_ids import hashed_ids, table_of_ids
from zssmnet.data.dicom_choice import Override, read_overrides
from zssmnet.data.dicom_import import ImportSummary, import_dicom
from zssmnet.data.dicom_series import find_studies
from zssmnet.data.dicom_volume import compute_high_b, read_volume
from zssmnet.errors import ArchiveError, DicomError
from zssmnet.storage import LocalStorage

CASE = "10001_1000001"
IDS = table_of_ids(f"patient_id,study,case_id\n{PATIENT['PatientID']},,{CASE}\n".encode(), "ids.csv")
REAL_IDS = table_of_ids(
    b"patient_id,study,case_id\nProstateX-0000,,11373_1001396\nProstateX-0218,20110218,90218_9000218\n", "ids.csv"
)


def done(folder: Path, **options: Any) -> ImportSummary:
    return import_dicom(folder / "dicom", LocalStorage(folder / "archive"), **{"ids": IDS} | options)


def image(folder: Path, name: str, case_id: str = CASE) -> sitk.Image:
    return sitk.ReadImage(str(folder / "archive" / case_id.partition("_")[0] / f"{case_id}_{name}.mha"))


def array(folder: Path, name: str) -> np.ndarray:
    return sitk.GetArrayFromImage(image(folder, name))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "archive" / "choices.csv").open() as stream:
        return list(csv.DictReader(stream))


def chosen(folder: Path, role: str, case_id: str = CASE) -> tuple[str, str]:
    (row,) = (row for row in rows(folder) if row["chosen_as"] == role and row["case"] == case_id)
    return row["series"], row["reason"]


def fault(folder: Path, **options: Any) -> str:
    summary = done(folder, **options)
    assert not summary.cases
    (error,) = summary.faults
    return error.reason


class TestVolumes:
    def test_a_study_becomes_a_case_of_the_same_voxels(self, tmp_path: Path) -> None:
        expected = whole_study(tmp_path / "dicom")
        left = leave_half_written(tmp_path / "archive")
        assert done(tmp_path).cases == (CASE,)
        assert not left.exists()
        for name, values in expected.items():
            assert np.array_equal(array(tmp_path, name), values)
        t2w = image(tmp_path, "t2w")
        assert t2w.GetSpacing() == pytest.approx((0.5, 0.6, 3.0))
        assert t2w.GetOrigin() == pytest.approx((-10, -20, 0))
        assert t2w.GetDirection() == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))

    def test_names_order_and_folders_mean_nothing_and_foreign_files_are_passed_over(self, tmp_path: Path) -> None:
        expected = whole_study(tmp_path / "sorted")
        files = sorted((tmp_path / "sorted").iterdir())
        random.Random(1).shuffle(files)
        for number, file in enumerate(files):
            place = tmp_path / "dicom" / ("a" if number % 3 else "b/c") / f"{number}"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        shutil.copyfile(files[0], tmp_path / "dicom" / "again")
        (tmp_path / "dicom" / "DICOMDIR.txt").write_text("no image")
        (tmp_path / "dicom" / "empty").touch()
        (tmp_path / "dicom" / "damaged").write_bytes(files[0].read_bytes()[:300])
        series(tmp_path / "dicom" / "capture", 99, voxels(0), SOPClassUID=SecondaryCaptureImageStorage, **T2W)
        summary = done(tmp_path)
        assert all(np.array_equal(array(tmp_path, name), values) for name, values in expected.items())
        assert summary.passed_over["no DICOM file"] == 2
        assert summary.passed_over["a copy of another file"] == 1
        assert summary.passed_over["no MR image"] >= 5
        assert sum(summary.passed_over.values()) == 9

    def test_slopes_that_differ_between_slices_are_applied(self, tmp_path: Path) -> None:
        expected = whole_study(tmp_path / "dicom")["adc"]
        for index, file in enumerate(sorted((tmp_path / "dicom").glob("007_*"))):
            change(file, RescaleSlope=0.5 + index, RescaleIntercept=-3)
        done(tmp_path)
        slopes = (0.5 + np.arange(len(expected)))[:, None, None]
        np.testing.assert_allclose(array(tmp_path, "adc"), expected * slopes - 3)

    def test_rle_is_decoded(self, tmp_path: Path) -> None:
        expected = whole_study(tmp_path / "dicom")
        for file in (tmp_path / "dicom").iterdir():
            data = pydicom.dcmread(file)
            data.compress(RLELossless, generate_instance_uid=False)
            data.save_as(file)
        done(tmp_path)
        assert all(np.array_equal(array(tmp_path, name), values) for name, values in expected.items())

    def test_a_syntax_that_cannot_be_decoded_names_series_and_syntax(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        for file in (tmp_path / "dicom").glob("007_*"):
            data = pydicom.dcmread(file)
            data.compress(RLELossless, generate_instance_uid=False)
            data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # JPEG 2000, high throughput
            data.save_as(file)
        assert (reason := fault(tmp_path)).startswith("series 7 (ADC, 5 slices): its pixels cannot be decoded (High-Th")
        assert "gdcmconv" in reason

    def test_truncated_pixels_are_refused(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        file = tmp_path / "dicom" / "004_002_Doe.dcm"
        file.write_bytes(file.read_bytes()[:-20])
        assert "series 4 (T2W, 5 slices): its pixels cannot be decoded" in fault(tmp_path)

    def test_multi_frame_in_any_order_of_frames(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom", b=50)
        values = np.stack([voxels(20), voxels(21)])
        multi_frame(tmp_path / "dicom", 9, values, (800.0, 1500.0), np.random.default_rng(0).permutation(10).tolist())
        done(tmp_path)
        assert chosen(tmp_path, "DWI")[0] == "9"
        np.testing.assert_allclose(array(tmp_path, "hbv"), values[1] * 2.0 + 5)
        assert image(tmp_path, "hbv").GetSpacing() == pytest.approx((0.5, 0.6, 3.0))
        assert image(tmp_path, "hbv").GetOrigin() == pytest.approx((-10, -20, 0))

    @pytest.mark.parametrize(
        ("positions", "words"),
        [
            ((0, 3, 9, 12, 15), "lacks 1 slice: gaps of 6.00 mm among 3.00 mm"),
            ((0, 3, 12, 15, 18), "lacks 2 slices"),
            ((0, 3, 7, 10, 13), "uneven gaps, 3.00 to 4.00 mm"),
            ((0, 3, 3, 6, 9), "2 different slices at one position"),
        ],
    )
    def test_positions_that_make_no_volume_are_refused(self, tmp_path: Path, positions: Any, words: str) -> None:
        whole_study(tmp_path / "dicom")
        for file, z in zip(sorted((tmp_path / "dicom").glob("004_*")), positions, strict=True):
            change(file, ImagePositionPatient=[-10, -20, z])
        assert words in fault(tmp_path)
        assert not list((tmp_path / "archive").rglob("*.mha"))

    def test_slices_that_are_there_twice_with_the_same_pixels_are_read_once(self, tmp_path: Path) -> None:
        expected = whole_study(tmp_path / "dicom")["t2w"]
        twice = shutil.copyfile(tmp_path / "dicom" / "004_002_Doe.dcm", tmp_path / "dicom" / "other")
        change(twice, SOPInstanceUID=generate_uid())
        done(tmp_path)
        assert np.array_equal(array(tmp_path, "t2w"), expected)

    def test_two_recordings_in_one_series_are_told_apart(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        later = voxels(30)
        series(tmp_path / "dicom" / "again", 4, later, AcquisitionNumber=2, SeriesTime="130000", **T2W)
        done(tmp_path)
        assert np.array_equal(array(tmp_path, "t2w"), later)

    def test_b_values_of_one_series_need_the_same_slices(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom", b=50)
        series(tmp_path / "dicom" / "b50", 9, voxels(1), DiffusionBValue=50.0, **DWI)
        series(tmp_path / "dicom" / "b1400", 9, voxels(2, 4), DiffusionBValue=1400.0, **DWI)
        done(tmp_path, config=SeriesConfig(lowest_b=10))
        (row,) = (row for row in rows(tmp_path) if row["b"] == "1400")
        assert row["reason"] == "lacks 1 of the 5 slices that its series has for other images"


class TestRoles:
    @pytest.mark.parametrize(
        ("private", "fields"),
        [
            (("SIEMENS MR HEADER", 0x0019, 0x0C, "IS", "1400"), {}),
            (("SIEMENS MR HEADER", 0x0019, 0x0C, "UN", b"1400"), {}),
            (("GEMS_PARM_01", 0x0043, 0x39, "IS", [1000001400, 8, 0, 0]), {}),
            (("GEMS_PARM_01", 0x0043, 0x39, "UN", b"1000001400\\8\\0\\0 "), {}),
            (("Philips Imaging DD 001", 0x2001, 0x03, "FL", 1400.0), {}),
            (("Philips Imaging DD 001", 0x2001, 0x03, "UN", np.float32(1400).tobytes()), {}),
            (("Philips Imaging DD 001", 0x2001, 0x03, "OB", np.float32(1400).tobytes()), {}),
            (None, {"DiffusionBValue": 1400.0, "SequenceName": "ep_b50t"}),
            (None, {"SequenceName": "*ep_b1400t"}),
            (None, {"SequenceName": "*ep_b50_800", "SeriesDescription": "ep2d b=1400 calc"}),
        ],
        ids=[
            "Siemens",
            "Siemens UN",
            "GE",
            "GE UN",
            "Philips",
            "Philips UN",
            "Philips OB",
            "standard",
            "sequence",
            "description",
        ],
    )
    def test_b_values_of_all_vendors(self, tmp_path: Path, private: Any, fields: dict[str, Any]) -> None:
        series(tmp_path, 8, voxels(8), private=private, **DWI | fields)
        (study,), _ = find_studies(tmp_path)
        (stack,) = study.stacks
        assert (stack.role, stack.first.b) == ("DWI", 1400)

    @pytest.mark.parametrize(
        ("fields", "role", "words"),
        [
            (T2W, "T2W", "echo time 101 ms"),
            (T2W | {"EchoTime": 12}, None, "not T2-weighted"),
            (T2W | {"ScanningSequence": "GR"}, None, "not T2-weighted"),
            (T2W | {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, None, "sagittal"),
            (T2W | {"ImageOrientationPatient": [1, 0, 0, 0, 0.3, -0.954]}, None, "coronal"),
            (T2W | {"ImageOrientationPatient": [1, 0, 0, 0, 0.9, -0.436]}, "T2W", "spin echo"),
            (T2W | {"BurnedInAnnotation": "YES"}, None, "burnt into"),
            (T2W | {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, None, "LOCALIZER"),
            ({"SeriesDescription": "t2_tse_tra"}, "T2W", "by SeriesDescription"),
            ({"SeriesDescription": "t2*_gre"}, None, "not recognised"),
            (ADC, "ADC", "by ImageType"),
            (DWI | {"SeriesDescription": "Apparent Diffusion Coefficient (mm2/s)"}, "ADC", "by SeriesDescription"),
            (DWI | {"SeriesDescription": "eADC"}, None, "another map"),
            (DWI | {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA"]}, None, "another map"),
            (DWI, None, "without a b-value"),
            (DWI | {"DiffusionBValue": 800.0}, "DWI", "b 800"),
            (
                ADC | {"ImageType": ["ORIGINAL", "PRIMARY", "M"], "DiffusionBValue": 50.0, "SeriesDescription": "ADC"},
                "DWI",
                "b 50",
            ),
        ],
    )
    def test_what_a_series_shows(self, tmp_path: Path, fields: dict[str, Any], role: str | None, words: str) -> None:
        series(tmp_path, 3, voxels(0), **fields)
        (study,), _ = find_studies(tmp_path)
        (stack,) = study.stacks
        assert stack.role == role
        assert words in stack.reason


class TestChoice:
    @pytest.mark.parametrize(
        ("fields", "wins"),
        [
            ({"SeriesTime": "130000"}, True),
            ({"SeriesTime": "110000"}, False),
            ({"SeriesTime": "110000", "PixelSpacing": [0.3, 0.3]}, True),
            ({"SeriesTime": "130000", "PixelSpacing": [0.9, 0.9]}, False),
            ({"SeriesTime": "130000", "ScanOptions": "FS"}, False),
            ({"SeriesTime": "130000", "MRAcquisitionType": "3D"}, False),
        ],
        ids=["later", "earlier", "finer", "coarser", "fat saturated", "3-D"],
    )
    def test_of_two_t2w(self, tmp_path: Path, fields: dict[str, str], wins: bool) -> None:
        whole_study(tmp_path / "dicom")
        series(tmp_path / "dicom", 5, voxels(5), **T2W | fields)
        done(tmp_path)
        assert chosen(tmp_path, "T2W")[0] == ("5" if wins else "4")

    def test_one_that_lacks_a_slice_is_passed_by(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        series(tmp_path / "dicom", 5, voxels(5), (0, 3, 6, 12, 15), **T2W)
        done(tmp_path)
        assert chosen(tmp_path, "T2W")[0] == "4"
        assert "lacks 1 slice" in next(row["reason"] for row in rows(tmp_path) if row["series"] == "5")

    def test_adc_follows_the_grid_of_the_dwi(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        series(tmp_path / "dicom", 9, voxels(9), **ADC | {"PixelSpacing": [0.4, 0.4], "SeriesTime": "130000"})
        done(tmp_path)
        assert chosen(tmp_path, "ADC") == ("7", "first of 2 by: complete, DWI's grid, finest, latest")

    def test_overrides(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        expected = voxels(5)
        series(tmp_path / "dicom", 5, expected, **T2W | {"PixelSpacing": [0.9, 0.9], "SeriesTime": "100000"})
        done(tmp_path, overrides=read_overrides(f"[{CASE}]\nt2w = 5\n".encode(), "by_hand.toml"))
        assert chosen(tmp_path, "T2W") == ("5", "chosen manually")
        assert np.array_equal(array(tmp_path, "t2w"), expected)
        assert fault(tmp_path, overrides={CASE: Override(leave_out="moved")}) == "excluded manually: moved"
        assert "no series 77" in fault(tmp_path, overrides={CASE: Override(adc=77)})
        with pytest.raises(DicomError, match="overrides of 1 cases that are not there: 7_7"):
            done(tmp_path, overrides={"7_7": Override()})

    @pytest.mark.parametrize("text", [b"[a", b"[a]\nt2 = 4", b"[a]\nt2w = 'x'", b"\xff"])
    def test_overrides_of_another_form_are_one_line(self, text: bytes) -> None:
        with pytest.raises(DicomError, match=r"by_hand\.toml: .+"):
            read_overrides(text, "by_hand.toml")

    def test_low_b_values_alone_are_refused_or_computed_from(self, tmp_path: Path) -> None:
        folder = tmp_path / "dicom"
        whole_study(folder)
        for file in folder.glob("008_*"):
            file.unlink()
        adc = np.linspace(0, 3e-3, voxels(0).size).reshape(voxels(0).shape)
        for b in (0, 100, 400, 800):  # at b 0 perfusion adds to the signal: it is not to be used
            signal = 40_000 * np.exp(-b * adc) * (1.5 if b == 0 else 1)
            series(folder / f"b{b}", 9, np.rint(signal).astype(np.uint16), DiffusionBValue=float(b), **DWI)
        assert "its highest b-value is 800 s/mm2, wanted are 1000 or more" in fault(tmp_path)
        done(tmp_path, config=SeriesConfig(lowest_b=800))
        assert chosen(tmp_path, "DWI")[1].startswith("first of 4")
        done(tmp_path, config=SeriesConfig(compute_high_b=True, high_b=1400))
        np.testing.assert_allclose(array(tmp_path, "hbv"), 40_000 * np.exp(-1400 * adc), rtol=3e-3)
        used = [row["b"] for row in rows(tmp_path) if row["chosen_as"] == "DWI"]
        assert used == ["0", "100", "400", "800"]
        assert "b 1400 is computed from b 0, 100, 400, 800" in {row["reason"] for row in rows(tmp_path)}

    def test_without_a_channel_the_case_is_left_out(self, tmp_path: Path) -> None:
        series(tmp_path / "dicom", 4, voxels(4), **T2W)
        assert fault(tmp_path) == "no axial DWI image among 1 series; no axial ADC image among 1 series"
        assert rows(tmp_path)[-1]["reason"].startswith("left out: no axial DWI")


class TestIds:
    def test_keyed_hash_is_stable_and_secret(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        (first,), (again,), (other,) = (done(tmp_path, ids=hashed_ids(key * 16)).cases for key in (b"a", b"a", b"b"))
        assert first == again != other
        assert first.partition("_")[0] != other.partition("_")[0]
        assert all(part.isdigit() and len(part) == 12 for part in first.split("_"))

    def test_studies_of_a_patient_share_the_patient(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        second = generate_uid()
        series(tmp_path / "dicom" / "second", 44, voxels(0), **T2W | {"StudyInstanceUID": second})
        summary = done(tmp_path, ids=hashed_ids(b"k" * 16))
        ids = [*summary.cases, *(one.case_id for one in summary.faults)]
        assert len({one.partition("_")[0] for one in ids}) == 1
        assert len(set(ids)) == 2
        with pytest.raises(DicomError, match=f"1 ids stand for several studies each: {CASE}"):
            done(tmp_path)

    def test_studies_that_the_table_does_not_name_are_left_out(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        summary = done(tmp_path, ids=table_of_ids(b"patient_id,study,case_id\nothers,,1_1\n", "ids.csv"))
        assert (summary.cases, summary.without_id) == ((), 1)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"a,b\n1,2\n", "has no column case_id, patient_id, study"),
            (b"patient_id,study,case_id\nx,,../y_1\n", "line 2: '../y_1' is no id"),
            (
                b"patient_id,study,case_id\nx,,1_1\ny,,1_1\n",
                "line 3: case 1_1, or its patient and study, is there twice",
            ),
            (b"\xff\xfe\x00", "not a CSV table"),
        ],
    )
    def test_tables_of_another_form_are_one_line(self, text: bytes, words: str) -> None:
        with pytest.raises(DicomError, match=r"ids\.csv") as error:
            table_of_ids(text, "ids.csv")
        assert words in str(error.value)

    def test_a_short_key_is_refused(self) -> None:
        with pytest.raises(DicomError, match="the key has 3 bytes, 16 or more are needed"):
            hashed_ids(b"key")

    def test_nothing_identifies_the_patient(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG")
        whole_study(tmp_path / "dicom" / "Doe_Jane_19440229")
        series(tmp_path / "dicom" / "Doe", 20, voxels(3), (0, 3, 9, 12, 15), **T2W)
        summaries = [done(tmp_path, ids=hashed_ids(b"k" * 16))]
        for file in (tmp_path / "dicom").rglob("007_*"):
            file.write_bytes(file.read_bytes()[:-20])
        summaries.append(done(tmp_path, ids=hashed_ids(b"k" * 16)))
        assert [len(one.faults) for one in summaries] == [0, 1]
        files = [file for file in (tmp_path / "archive").rglob("*") if file.is_file()]
        assert len(files) == 4
        written = b"".join(str(file.relative_to(tmp_path)).encode() + file.read_bytes() for file in files)
        spoken = caplog.text + repr(summaries) + "".join(str(one) for each in summaries for one in each.faults)
        study = pydicom.dcmread(next((tmp_path / "dicom").rglob("004_*"))).StudyInstanceUID
        for secret in (*PATIENT.values(), "Doe", "Jane", "4711", "20110707", study):
            assert secret.encode() not in written
            assert secret not in spoken

    def test_foreign_trees_are_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "dicom").mkdir()
        with pytest.raises(DicomError, match="holds no MR image \\(it is empty, or is not there\\)"):
            done(tmp_path)
        (tmp_path / "dicom" / "a.txt").write_text("text")
        with pytest.raises(DicomError, match="holds no MR image \\(1 no DICOM file\\)"):
            done(tmp_path)


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real studies, all files in one folder under meaningless names, a foreign one among them; imported."""
    folder = tmp_path_factory.mktemp("real")
    files = sorted(file for file in (shared / "data" / "dicom").rglob("*") if file.is_file())
    random.Random(0).shuffle(files)
    (folder / "dicom").mkdir()
    for number, file in enumerate(files):
        (folder / "dicom" / f"{number:04d}").symlink_to(file)
    (folder / "dicom" / "notes.txt").write_text("foreign")
    summary = done(folder, ids=REAL_IDS)
    assert summary.cases == ("11373_1001396", "90218_9000218")
    assert dict(summary.passed_over) == {"no DICOM file": 1}
    return folder


class TestRealStudies:
    @pytest.mark.parametrize("name", ["t2w", "adc", "hbv"])
    def test_prostatex_0000_is_picai_11373_1001396(self, real: Path, shared: Path, name: str) -> None:
        ours = image(real, name, "11373_1001396")
        theirs = sitk.ReadImage(str(shared / "data" / "picai_mha" / "11373" / f"11373_1001396_{name}.mha"))
        assert ours.GetPixelID() == theirs.GetPixelID()
        assert np.array_equal(sitk.GetArrayViewFromImage(ours), sitk.GetArrayViewFromImage(theirs))
        for grid in (sitk.Image.GetOrigin, sitk.Image.GetSpacing, sitk.Image.GetDirection):
            assert grid(ours) == grid(theirs)

    def test_prostatex_0218_gives_a_reasoned_choice(self, real: Path) -> None:
        case = "90218_9000218"
        assert chosen(real, "T2W", case) == ("5", "the only one")
        assert chosen(real, "DWI", case) == ("10", "first of 6 by: complete, b-value nearest to 1400, finest, latest")
        assert chosen(real, "ADC", case) == ("9", "first of 2 by: complete, DWI's grid, finest, latest")
        others = {row["series"]: row["reason"] for row in rows(real) if row["case"] == case and not row["chosen_as"]}
        assert others["4"] == "is sagittal"
        assert others["12"] == "series 9 (ADC, 20 slices) comes first"
        assert others["13"] == "series 10 (DWI b 1600, 20 slices) comes first"

    def test_the_archive_is_recognised(self, real: Path, tmp_path: Path) -> None:
        (tmp_path / "11373_1001396.nii.gz").touch()
        found = take_inventory(LocalStorage(real / "archive"), LocalStorage(tmp_path))
        assert [case.id for case in found.cases] == ["11373_1001396"]
        with pytest.raises(ArchiveError):
            take_inventory(LocalStorage(real / "dicom"), LocalStorage(tmp_path))

    def test_a_missing_slice_is_found(self, real: Path, tmp_path: Path) -> None:
        (study, _), _ = find_studies(real / "dicom")
        shutil.copytree(real / "dicom", tmp_path / "dicom", symlinks=True)
        gone = {one.file.name for stack in study.stacks if stack.role == "T2W" for one in stack.slices[7:9]}
        for name in gone:
            (tmp_path / "dicom" / name).unlink()
        (case,) = done(tmp_path, ids=REAL_IDS).faults
        assert case.case_id == ("11373_1001396" if study.patient.endswith("0000") else "90218_9000218")
        assert "(T2W, 1" in case.reason
        assert "lacks 2 slices" in case.reason

    def test_computed_b_1000_is_nearly_the_scanner_s(self, real: Path) -> None:
        studies, _ = find_studies(real / "dicom")
        (study,) = (one for one in studies if one.patient == "ProstateX-0000")
        dwi = [stack for stack in study.stacks if stack.role == "DWI"]
        ours = sitk.GetArrayFromImage(compute_high_b([one for one in dwi if one.first.number == 6], 1000))
        theirs = sitk.GetArrayFromImage(read_volume(next(one for one in dwi if one.first.number == 8)))
        inside = theirs > 20
        assert np.corrcoef(ours[inside], theirs[inside])[0, 1] > 0.97
        assert np.median(ours[inside] / theirs[inside]) == pytest.approx(1, abs=0.05)
