"""DICOM as vendors, archives and anonymisers write it: grouping by geometry, vendors' marks, named reasons."""

import csv
import gzip
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from tests.zssmnet.data.dicom_files import ADC, DWI, T2W, change, multi_frame, series, voxels, whole_study
from zssmnet.config import SeriesConfig
from zssmnet.data.case_ids import hashed_ids
from zssmnet.data.dicom_choice import Override, read_overrides
from zssmnet.data.dicom_import import ImportSummary, import_dicom
from zssmnet.data.dicom_marks import MARKS
from zssmnet.data.dicom_series import Stack, find_studies
from zssmnet.data.dicom_volume import read_volume
from zssmnet.errors import DicomError
from zssmnet.storage import LocalStorage

SIEMENS, GE, UIH = "SIEMENS MR HEADER", "GEMS_PARM_01", "Image Private Header"
PHILIPS, PHILIPS_MR = "Philips Imaging DD 001", "Philips MR Imaging DD 001"
IN_ONE = {"SeriesInstanceUID": generate_uid(entropy_srcs=["one"])}
PLAIN = DWI | {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]}
Private = tuple[str, int, int, str, Any]


def done(folder: Path, **options: Any) -> ImportSummary:
    return import_dicom(folder / "dicom", LocalStorage(folder / "archive"), **{"ids": hashed_ids(b"k" * 16)} | options)


def array(folder: Path, name: str) -> np.ndarray | None:
    """The voxels of the one case that was imported, or None."""
    files = list((folder / "archive").rglob(f"*_{name}.mha"))
    assert len(files) <= 1
    return sitk.GetArrayFromImage(sitk.ReadImage(str(files[0]))) if files else None


def rows(folder: Path, number: int) -> list[dict[str, str]]:
    with (folder / "archive" / "choices.csv").open() as stream:
        return [row for row in csv.DictReader(stream) if row["series"] == str(number)]


def stacks(folder: Path) -> list[Stack]:
    return [stack for study in find_studies(folder)[0] for stack in study.stacks]


def marked(files: list[Path], *fields: Private) -> None:
    """Add private fields to files."""
    for file in files:
        data = pydicom.dcmread(file)
        for creator, group, element, representation, value in fields:
            data.private_block(group, creator, create=True).add_new(element, representation, value)
        data.save_as(file)


def each(files: list[Path], function: Callable[[int, Dataset], None]) -> None:
    """Change files, each by its number."""
    for number, file in enumerate(files):
        data = pydicom.dcmread(file)
        function(number, data)
        data.save_as(file)


def put(**fields: Any) -> Callable[[Dataset, bool], None]:
    """A change to the slices for which it is true."""
    return lambda data, is_odd: [setattr(data, name, value) for name, value in fields.items() if is_odd] and None


def without_dwi(folder: Path) -> None:
    whole_study(folder)
    for file in folder.glob("008_*"):
        file.unlink()


class TestGeometry:
    @pytest.mark.parametrize(
        "is_odd",
        [lambda i: i % 2, lambda i: i >= 3, lambda i: i == 4, lambda i: i == 0],
        ids=["every second", "upper half", "one", "first"],
    )
    @pytest.mark.parametrize(
        "odd",
        [
            {"ImageOrientationPatient": [1, 5e-4, 0, -5e-4, 1, 0]},
            {"PixelSpacing": [0.6, 0.5000001]},
            {"PixelSpacing": [0.60001, 0.5]},
            {"EchoTime": 101.0001},
            {"EchoTime": 100.8},
            {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]},
            {"ImageType": ["DERIVED", "PRIMARY", "M", "DIS2D"]},
            {"ScanOptions": "PFP"},
            {"RescaleSlope": 1, "RescaleIntercept": 0},
        ],
        ids=lambda fields: " ".join(map(str, fields.values())),
    )
    def test_differences_that_do_not_matter_split_no_volume(
        self, tmp_path: Path, odd: dict[str, Any], is_odd: Any
    ) -> None:
        files = series(tmp_path, 4, voxels(4), **T2W)
        each(files, lambda i, data: put(**odd)(data, is_odd(i)))
        (stack,) = stacks(tmp_path)
        assert (stack.role, stack.fault) == ("T2W", "")
        assert np.array_equal(sitk.GetArrayFromImage(read_volume(stack)), voxels(4))

    @pytest.mark.parametrize("b", [1399.6, 1400.0001, 1400.5])
    def test_b_values_that_differ_in_a_digit_split_no_volume(self, tmp_path: Path, b: float) -> None:
        files = series(tmp_path, 8, voxels(8), DiffusionBValue=1400.0, **DWI)
        each(files, lambda i, data: put(DiffusionBValue=b)(data, i % 2 == 1))
        assert [(len(one.slices), one.role, one.fault) for one in stacks(tmp_path)] == [(5, "DWI", "")]

    @pytest.mark.parametrize(
        "other",
        [
            {"EchoTime": 120},
            {"PixelSpacing": [0.7, 0.7]},
            {"ImageOrientationPatient": [1, 0, 0, 0, 0.98, 0.199]},
            {"FrameOfReferenceUID": "1.2.3"},
            {"DiffusionBValue": 800.0},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_differences_that_matter_split(self, tmp_path: Path, other: dict[str, Any]) -> None:
        series(tmp_path / "a", 4, voxels(4), **T2W | IN_ONE)
        series(tmp_path / "b", 4, voxels(5, 9), **T2W | IN_ONE | other)
        assert sorted(len(stack.slices) for stack in stacks(tmp_path)) == [5, 9]

    @pytest.mark.parametrize("is_odd", [lambda i: i % 2, lambda i: i >= 3], ids=["every second", "upper half"])
    @pytest.mark.parametrize(
        "odd",
        [
            {"EchoTime": 103},
            {"PixelSpacing": [0.603, 0.503]},
            {"ImageOrientationPatient": [0.99995, 0.01, 0, -0.01, 0.99995, 0]},
            {"ImageType": ["DERIVED", "PRIMARY", "ADC"]},
            {"DiffusionBValue": 0.0},
        ],
        ids=lambda fields: " ".join(map(str, fields.values())),
    )
    def test_half_a_volume_is_never_taken_for_a_whole_one(
        self, tmp_path: Path, odd: dict[str, Any], is_odd: Any
    ) -> None:
        files = series(tmp_path, 4, voxels(4, 6), **T2W)
        each(files, lambda i, data: put(**odd)(data, is_odd(i)))
        found = stacks(tmp_path)
        assert len(found) == 1 or {stack.fault[:20] for stack in found} == {"lacks 3 of the 6 sli"}

    @pytest.mark.parametrize(
        "other",
        [
            {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
            {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
            {"PixelSpacing": [2, 2]},
            {"Rows": 3, "Columns": 16, "PixelSpacing": [1.2, 0.5]},
            {"ImageOrientationPatient": [1, 0, 0, 0, 0.9, 0.436]},
        ],
        ids=lambda fields: str(fields),
    )
    def test_stacks_of_another_geometry_do_not_count(self, tmp_path: Path, other: dict[str, Any]) -> None:
        whole_study(tmp_path / "dicom")
        for file in (tmp_path / "dicom").glob("004_*"):
            change(file, **IN_ONE)
        series(tmp_path / "dicom" / "other", 4, voxels(9, 9), **T2W | IN_ONE | other)
        assert len(done(tmp_path).cases) == 1
        assert np.array_equal(array(tmp_path, "t2w"), voxels(4))

    def test_directions_at_another_b_value_do_not_count(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        for n in range(3):
            series(tmp_path / "dicom" / str(n), 8, voxels(80 + n), DiffusionBValue=700.0, **PLAIN)
        done(tmp_path)
        assert np.array_equal(array(tmp_path, "hbv"), voxels(8))

    def test_slices_of_one_uid_are_copies_only_if_their_pixels_are_equal(self, tmp_path: Path) -> None:
        files = series(tmp_path, 4, voxels(4), **T2W)
        each(files, lambda _, data: put(SOPInstanceUID="1.2.3")(data, True))
        (tmp_path / "copy").write_bytes(files[2].read_bytes())
        found, passed_over = find_studies(tmp_path)
        assert [len(stack.slices) for stack in found[0].stacks] == [5]
        assert passed_over == {"a copy of another file": 1}

    def test_an_empty_slice_in_each_of_two_acquisitions_is_no_copy(self, tmp_path: Path) -> None:
        for n in (1, 2):
            values = voxels(n)
            values[0] = 0
            series(tmp_path / str(n), 4, values, AcquisitionNumber=n, **T2W)
        assert [(len(one.slices), one.fault) for one in stacks(tmp_path)] == [(5, ""), (5, "")]

    def test_slices_of_signed_and_unsigned_pixels_keep_their_values(self, tmp_path: Path) -> None:
        files = series(tmp_path, 4, voxels(4), **T2W)
        values = voxels(4).astype(np.int32)
        values[2] -= 2000
        each(
            files[2:3],
            lambda _, data: put(PixelRepresentation=1, PixelData=values[2].astype(np.int16).tobytes())(data, True),
        )
        (stack,) = stacks(tmp_path)
        assert np.array_equal(sitk.GetArrayFromImage(read_volume(stack)), values)

    def test_many_volumes_in_a_series_take_no_quadratic_time(self, tmp_path: Path) -> None:
        values = np.tile(voxels(0, 10), (40, 1, 1, 1))
        file = multi_frame(tmp_path, 9, values, (50.0,) * 40, range(400))
        data = pydicom.dcmread(file)
        for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            content = Dataset()
            content.FrameAcquisitionNumber = number // 10 + 1
            frame.FrameContentSequence = [content]
        data.save_as(file)
        start = time.process_time()
        assert len(stacks(tmp_path)) == 40
        assert time.process_time() - start < 4


class TestPatients:
    @pytest.mark.parametrize(
        ("gone", "fields"),
        [
            ((), {"PatientID": "B"}),
            (("StudyInstanceUID",), {"PatientID": "B"}),
            (("PatientID",), {"PatientName": "Roe"}),
            (("PatientID", "StudyInstanceUID"), {"PatientName": "Roe"}),
            (("PatientID", "PatientName"), {"PatientBirthDate": "19500101"}),
            (("StudyInstanceUID",), {"StudyDate": "20120101"}),
        ],
        ids=str,
    )
    def test_no_case_is_of_two_patients(
        self, tmp_path: Path, gone: tuple[str, ...], fields: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        whole_study(tmp_path / "dicom")
        for file in (tmp_path / "dicom").iterdir():
            data = pydicom.dcmread(file)
            for name in gone:
                delattr(data, name)
            for name, value in fields.items() if file.name.startswith("008") else ():
                setattr(data, name, value)
            data.save_as(file)
        summary = done(tmp_path)
        assert summary.cases == ()
        assert len({fault.case_id for fault in summary.faults}) == 2
        assert "StudyInstanceUID" in caplog.text

    @pytest.mark.parametrize(
        ("fields", "is_one"),
        [
            ({"PatientName": "Roe^Jim"}, False),
            ({"PatientBirthDate": "19500101"}, False),
            ({"PatientName": "DOE^Jane^M"}, True),
            ({"PatientName": "", "PatientBirthDate": ""}, True),
        ],
        ids=str,
    )
    def test_two_patients_under_one_id_make_no_case(self, tmp_path: Path, fields: dict[str, str], is_one: bool) -> None:
        whole_study(tmp_path / "dicom")
        each(sorted((tmp_path / "dicom").glob("008_*")), lambda _, data: put(**fields)(data, True))
        summary = done(tmp_path)
        assert len(summary.cases) == is_one
        assert is_one or "two names or dates of birth under one PatientID" in summary.faults[0].reason

    def test_nobody_s_images_are_named(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        each(
            list((tmp_path / "dicom").iterdir()),
            lambda _, data: [delattr(data, name) for name in [*data.dir("Patient"), "StudyInstanceUID"]] and None,
        )
        with pytest.raises(DicomError, match=r"15 without PatientID \(0010,0020\) and StudyInstanceUID"):
            done(tmp_path)


DIRECTIONS: dict[str, Callable[[float], tuple[dict[str, Any], list[Private]]]] = {
    "DIRECTIONAL": lambda n: ({"DiffusionBValue": 1400.0, "DiffusionDirectionality": "DIRECTIONAL"}, []),
    "BMATRIX": lambda n: ({"DiffusionBValue": 1400.0, "DiffusionDirectionality": "BMATRIX"}, []),
    "Toshiba": lambda n: ({"DiffusionBValue": 1400.0, "DiffusionGradientOrientation": [n, 1.0, 0.0]}, []),
    "Siemens": lambda n: ({}, [(SIEMENS, 0x19, 0x0C, "IS", 1400), (SIEMENS, 0x19, 0x0D, "CS", "DIRECTIONAL")]),
    "Siemens vector": lambda n: ({}, [(SIEMENS, 0x19, 0x0C, "IS", 1400), (SIEMENS, 0x19, 0x0E, "FD", [n, 1.0, 0.0])]),
    "Siemens UN": lambda n: (
        {},
        [(SIEMENS, 0x19, 0x0C, "UN", b"1400"), (SIEMENS, 0x19, 0x0E, "UN", np.array([n, 1.0, 0.0]).tobytes())],
    ),
    "Philips O": lambda n: ({}, [(PHILIPS, 0x2001, 0x03, "FL", 1400.0), (PHILIPS, 0x2001, 0x04, "CS", "O")]),
    "Philips vector": lambda n: (
        {},
        [(PHILIPS, 0x2001, 0x03, "FL", 1400.0), (PHILIPS_MR, 0x2005, 0xB1, "FL", 1.0)],
    ),
    "GE": lambda n: ({}, [(GE, 0x43, 0x39, "IS", [1000001400, 8]), (GE, 0x43, 0x30, "SS", 3 + int(n))]),
    "GE UN": lambda n: (
        {},
        [(GE, 0x43, 0x39, "UN", b"1000001400\\8"), (GE, 0x43, 0x30, "UN", np.int16(3 + n).tobytes())],
    ),
    "UIH": lambda n: ({}, [(UIH, 0x65, 0x09, "FD", 1400.0), (UIH, 0x65, 0x37, "FD", [n, 1.0, 0.0])]),
    "Canon": lambda n: ({"ImageComments": f"b=1400(0.445,{n},0.895)"}, []),
}
TRACES: dict[str, tuple[dict[str, Any], list[Private]]] = {
    "ISOTROPIC": ({"DiffusionBValue": 1400.0, "DiffusionDirectionality": "ISOTROPIC"}, []),
    "Siemens": ({}, [(SIEMENS, 0x19, 0x0C, "IS", 1400), (SIEMENS, 0x19, 0x0D, "CS", "ISOTROPIC")]),
    "TRACEW": ({"DiffusionBValue": 1400.0, "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"]}, []),
    "CALC_BVAL": ({"DiffusionBValue": 1400.0, "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "CALC_BVAL"]}, []),
    "Philips": ({}, [(PHILIPS, 0x2001, 0x03, "FL", 1400.0), (PHILIPS, 0x2001, 0x04, "CS", "I")]),
    "Philips, zero vector": (
        {},
        [
            (PHILIPS, 0x2001, 0x03, "FL", 1400.0),
            (PHILIPS, 0x2001, 0x04, "CS", "I"),
            (PHILIPS_MR, 0x2005, 0xB0, "FL", 0.0),
        ],
    ),
    "GE": ({}, [(GE, 0x43, 0x39, "IS", [1000001400, 8]), (GE, 0x43, 0x30, "SS", 15)]),
}


class TestMarks:
    @pytest.mark.parametrize("vendor", DIRECTIONS)
    def test_no_single_direction_is_the_dwi(self, tmp_path: Path, vendor: str) -> None:
        without_dwi(tmp_path / "dicom")
        for n in range(3):
            fields, private = DIRECTIONS[vendor](float(n))
            marked(
                series(tmp_path / "dicom" / str(n), 5, voxels(50 + n), **PLAIN | fields | {"AcquisitionNumber": n + 1}),
                *private,
            )
        assert done(tmp_path).cases == ()
        assert {row["reason"] for row in rows(tmp_path, 5)} == {"is one gradient direction, no trace"}

    @pytest.mark.parametrize("with_numbers", [False, True])
    @pytest.mark.parametrize("vendor", TRACES)
    def test_the_trace_beside_its_directions_is_the_dwi(self, tmp_path: Path, vendor: str, with_numbers: bool) -> None:
        without_dwi(tmp_path / "dicom")
        fields, private = TRACES[vendor]
        marked(series(tmp_path / "dicom" / "trace", 5, voxels(8), **PLAIN | fields), *private)
        for n in range(3):
            fields, private = DIRECTIONS[vendor.split(",")[0] if vendor in DIRECTIONS else "Toshiba"](float(n))
            numbers = {"AcquisitionNumber": n + 2} if with_numbers else {}
            marked(series(tmp_path / "dicom" / str(n), 5, voxels(50 + n), **PLAIN | fields | numbers), *private)
        assert len(done(tmp_path).cases) == 1
        assert np.array_equal(array(tmp_path, "hbv"), voxels(8))

    @pytest.mark.parametrize(
        "fields", [{"AcquisitionNumber": 1}, {"TemporalPositionIdentifier": 1}, {"AcquisitionTime": "1"}]
    )
    def test_volumes_alike_at_one_b_value_are_refused_and_can_be_named(
        self, tmp_path: Path, fields: dict[str, Any]
    ) -> None:
        without_dwi(tmp_path / "dicom")
        for n in range(3):
            numbers = {name: type(value)(int(value) + n) for name, value in fields.items()}
            series(tmp_path / "dicom" / str(n), 5, voxels(50 + n), DiffusionBValue=1400.0, **PLAIN | numbers)
        (fault,) = done(tmp_path).faults
        assert "3 DWI b 1400 images are alike but for their voxels" in fault.reason
        if "AcquisitionNumber" in fields:
            assert 'dwi = {series = 5, acquisition = 3, kind = "ORIGINAL PRIMARY DIFFUSION NONE"}' in fault.reason
            text = f"[{fault.case_id}]\ndwi = {{series = 5, acquisition = 2, b = 1400}}\n"
            done(tmp_path, overrides=read_overrides(text.encode(), "by_hand.toml"))
            assert np.array_equal(array(tmp_path, "hbv"), voxels(51))

    def test_a_stack_is_named_by_its_kind(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        for n, kind in enumerate(("ND", "DIS2D")):
            series(
                tmp_path / "dicom" / kind, 5, voxels(50 + n), **T2W | {"ImageType": ["ORIGINAL", "PRIMARY", "M", kind]}
            )
        (fault,) = done(tmp_path).faults
        assert 'kind = "ORIGINAL PRIMARY M DIS2D"' in fault.reason
        done(tmp_path, overrides={fault.case_id: Override(t2w={"series": 5, "kind": "dis2d"})})
        assert np.array_equal(array(tmp_path, "t2w"), voxels(51))

    def test_equal_volumes_are_no_choice(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        series(tmp_path / "dicom" / "again", 4, voxels(4), **T2W | {"SeriesInstanceUID": generate_uid()})
        assert len(done(tmp_path).cases) == 1

    @pytest.mark.parametrize("mode", ["2D", "3D"])
    @pytest.mark.parametrize(
        ("fields", "private"),
        [
            ({"DiffusionBValue": 1.0}, False),
            ({}, True),
            ({"SeriesDescription": "DWI"}, True),
            ({"EchoTrainLength": 55}, True),
            ({"EchoTime": 101}, True),
        ],
    )
    def test_spin_echo_diffusion_is_dwi_and_no_t2w(
        self, tmp_path: Path, fields: dict[str, Any], private: bool, mode: str
    ) -> None:
        without_dwi(tmp_path / "dicom")
        for file in (tmp_path / "dicom").glob("004_*"):
            change(file, MRAcquisitionType=mode)
            marked([file], (PHILIPS, 0x2001, 0x03, "FL", 0.0))
        kind = ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
        for b in (0.0, 1400.0):
            own = {"DiffusionBValue": b} if "DiffusionBValue" in fields else {}
            files = series(
                tmp_path / "dicom" / f"{b}",
                5,
                voxels(int(b)),
                **{**T2W, "EchoTime": 75, "ImageType": kind, "PixelSpacing": [2, 2]} | fields | own,
            )
            marked(files, *([(PHILIPS, 0x2001, 0x03, "FL", b)] if private else []))
        done(tmp_path)
        assert np.array_equal(array(tmp_path, "t2w"), voxels(4))
        assert np.array_equal(array(tmp_path, "hbv"), voxels(1400))

    def test_a_b_0_image_in_a_series_of_its_own_is_no_t2w(self, tmp_path: Path) -> None:
        spin_echo = T2W | {"EchoTime": 75, "ImageType": ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]}
        for n, b in enumerate((0.0, 1400.0)):
            series(tmp_path, 5 + n, voxels(n), DiffusionBValue=b, **spin_echo)
        assert [stack.role for stack in stacks(tmp_path)] == ["DWI", "DWI"]

    def test_an_echo_planar_factor_is_no_t2w(self, tmp_path: Path) -> None:
        marked(series(tmp_path, 5, voxels(5), **T2W), (PHILIPS, 0x2001, 0x13, "SL", 55))
        assert stacks(tmp_path)[0].role is None

    @pytest.mark.parametrize(("b", "asked"), [(1395.0, 1400), (1403.7, 1400), (990.0, 1000), (1999, 2000), (805, 800)])
    def test_effective_b_values_count(self, tmp_path: Path, b: float, asked: int) -> None:
        whole_study(tmp_path / "dicom", b=b)
        (case,) = done(tmp_path, config=SeriesConfig(lowest_b=asked)).cases
        assert done(tmp_path, overrides={case: Override(dwi=8, b=asked)}).cases == (case,)

    @pytest.mark.parametrize("kind", ["P", "R", "PHASE MAP", "MOSAIC", "PROJECTION IMAGE"])
    def test_what_is_no_magnitude_volume_has_no_role(self, tmp_path: Path, kind: str) -> None:
        series(tmp_path, 4, voxels(4), **T2W | {"ImageType": ["ORIGINAL", "PRIMARY", kind]})
        assert stacks(tmp_path)[0].reason == f"is no acquired volume ({kind})"

    def test_a_real_world_value_mapping_is_the_scale_where_there_is_no_other(self, tmp_path: Path) -> None:
        item = Dataset()
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 0.5, -3.0
        series(tmp_path, 7, voxels(7), RealWorldValueMappingSequence=[item], **ADC)
        np.testing.assert_allclose(sitk.GetArrayFromImage(read_volume(stacks(tmp_path)[0])), voxels(7) * 0.5 - 3)

    def test_a_slope_comes_before_a_real_world_value_mapping(self, tmp_path: Path) -> None:
        item = Dataset()
        item.RealWorldValueSlope, item.RealWorldValueIntercept = 0.5, -3.0
        scaled = ADC | {"RescaleSlope": 2, "RescaleIntercept": 1, "RealWorldValueMappingSequence": [item]}
        series(tmp_path, 7, voxels(7), **scaled)
        np.testing.assert_allclose(sitk.GetArrayFromImage(read_volume(stacks(tmp_path)[0])), voxels(7) * 2.0 + 1)

    def test_frames_of_directions_beside_the_trace(self, tmp_path: Path) -> None:
        values = np.stack([voxels(20 + n) for n in range(3)])
        file = multi_frame(tmp_path, 9, values, (1400.0,) * 3, range(15))
        data = pydicom.dcmread(file)
        for number, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            diffusion = frame.MRDiffusionSequence[0]
            if number < 10:
                vector = Dataset()
                vector.DiffusionGradientOrientation = [1.0, 0.0, float(number // 5)]
                del diffusion.DiffusionDirectionality
                diffusion.DiffusionGradientDirectionSequence = [vector]
        data.save_as(file)
        (trace,) = (stack for stack in stacks(tmp_path) if stack.role == "DWI")
        np.testing.assert_allclose(sitk.GetArrayFromImage(read_volume(trace)), values[2] * 2.0 + 5)

    def test_the_table_is_in_the_documentation(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "dicom.md").read_text()
        for mark in MARKS:
            tag = f"{mark.group:04X},{'10' if mark.creator else ''}{mark.element:0{2 if mark.creator else 4}X}"
            assert tag in page, tag


class TestRepeats:
    @pytest.mark.parametrize("names", ["ab", "ba"])
    @pytest.mark.parametrize(
        "fields",
        [
            (
                {"AcquisitionNumber": 1, "AcquisitionTime": "101000"},
                {"AcquisitionNumber": 2, "AcquisitionTime": "102000"},
            ),
            ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
            ({"AcquisitionTime": "101000"}, {"AcquisitionTime": "102000"}),
            (
                {"AcquisitionNumber": 2, "AcquisitionTime": "235900"},
                {"AcquisitionNumber": 10, "AcquisitionTime": "235959"},
            ),
            ({"AcquisitionDateTime": "20110707235900"}, {"AcquisitionDateTime": "20110708000100"}),
            (
                {"ContentDate": "20110707", "ContentTime": "101000"},
                {"ContentDate": "20110707", "ContentTime": "101000.5"},
            ),
        ],
        ids=str,
    )
    def test_the_later_acquisition_is_taken_whatever_its_files_are_called(
        self, tmp_path: Path, fields: tuple[dict[str, Any], ...], names: str
    ) -> None:
        whole_study(tmp_path / "dicom")
        for n, name in enumerate(names):
            series(tmp_path / "dicom" / name, 4, voxels(40 + n), **T2W | IN_ONE | {"SeriesTime": "130000"} | fields[n])
        done(tmp_path)
        assert np.array_equal(array(tmp_path, "t2w"), voxels(41))

    def test_each_acquisition_of_interleaved_halves_is_whole(self, tmp_path: Path) -> None:
        for n in range(2):
            files = series(tmp_path / str(n), 4, voxels(40 + n, 6), **T2W | IN_ONE)
            each(files, lambda i, data, n=n: put(AcquisitionNumber=1 + 2 * n + i % 2)(data, True))
        found = stacks(tmp_path)
        assert [stack.fault for stack in found] == ["", ""]
        assert np.array_equal(sitk.GetArrayFromImage(read_volume(found[1])), voxels(41, 6))

    def test_an_aborted_acquisition_is_not_whole(self, tmp_path: Path) -> None:
        series(tmp_path / "1", 4, voxels(1, 3), AcquisitionNumber=2, **T2W)
        series(tmp_path / "2", 4, voxels(2, 6), AcquisitionNumber=1, **T2W)
        faults = {len(stack.slices): stack.fault for stack in stacks(tmp_path)}
        assert faults == {6: "", 3: "lacks 3 of the 6 slices that its series has for other images"}


class TestPixels:
    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"PhotometricInterpretation": "MONOCHROME1"}, "inverted (MONOCHROME1)"),
            ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
            ({"NumberOfFrames": 2, "PixelData": bytes(192)}, "several frames in a file without their places"),
            (
                {"NumberOfFrames": 2, "PerFrameFunctionalGroupsSequence": []},
                "several frames in a file without their places",
            ),
        ],
        ids=["inverted", "palette", "frames", "no groups"],
    )
    def test_pixels_of_another_meaning_are_named_and_end_no_import(
        self, tmp_path: Path, fields: dict[str, Any], words: str
    ) -> None:
        whole_study(tmp_path / "dicom")
        each(sorted((tmp_path / "dicom").glob("007_*")), lambda _, data: put(**fields)(data, True))
        summary = done(tmp_path)
        assert (summary.cases, dict(summary.passed_over)) == ((), {words: 5})
        assert rows(tmp_path, 7)[0]["reason"] == f"is {words}"

    def test_a_slice_without_all_of_its_pixels_is_never_filled_up(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        each([tmp_path / "dicom" / "004_002_Doe.dcm"], lambda _, data: put(PixelData=data.PixelData[:-20])(data, True))
        (fault,) = done(tmp_path).faults
        assert "series 4 (T2W, 5 slices): its pixels cannot be decoded" in fault.reason

    @pytest.mark.parametrize(
        ("written", "slope"), [(b"    ", 1), (b"1,5 ", 1.5), (b"1E-3", 1e-3), (b"1.5x", None), (b"nan ", None)], ids=str
    )
    def test_a_slope_is_what_the_header_says_or_named(
        self, tmp_path: Path, written: bytes, slope: float | None
    ) -> None:
        whole_study(tmp_path / "dicom")
        for file in (tmp_path / "dicom").glob("007_*"):
            change(file, RescaleSlope="9.75", RescaleIntercept="0")
            file.write_bytes(file.read_bytes().replace(b"9.75", written))
        done(tmp_path)
        if slope is None:
            assert rows(tmp_path, 7)[0]["reason"] == "is with an odd RescaleSlope (0028,1053)"
        else:
            np.testing.assert_allclose(array(tmp_path, "adc"), voxels(7) * slope, rtol=1e-6)

    def test_names_of_files_need_no_encoding(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        for number, file in enumerate(sorted((tmp_path / "dicom").glob("007_*"))):
            file.rename(file.parent / os.fsdecode(b"\xff%d" % number))
        done(tmp_path)
        assert np.array_equal(array(tmp_path, "adc"), voxels(7))


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "b"),
        [
            *((text, 1400) for text in ("b-value 1400", "bval1400", "bValue=1400", "b: 1400", "dwi_b1400_tra")),
            ("b50_1400", None),
            ("b50-1400", None),
            ("b50 b400 b1400", None),
            ("b0_b1400", None),
        ],
    )
    def test_a_b_value_in_a_text_is_the_only_one(self, tmp_path: Path, text: str, b: float | None) -> None:
        series(tmp_path, 8, voxels(8), **PLAIN | {"SeriesDescription": text})
        assert stacks(tmp_path)[0].first.b == b

    @pytest.mark.parametrize(
        ("fields", "role"),
        [
            (DWI | {"SeriesDescription": "ep2d_diff_adc_TRACEW", "DiffusionBValue": 1400.0}, "DWI"),
            (ADC | {"ImageType": [], "SeriesDescription": "ADC (mm2/s)", "DiffusionBValue": 1400.0}, "ADC"),
            (ADC | {"ImageType": ["DERIVED"], "SeriesDescription": "DWI_ADCmap"}, "ADC"),
            (ADC | {"ImageType": ["DERIVED"], "SeriesDescription": "Trace-ADC"}, "ADC"),
            (ADC | {"ImageType": ["DERIVED"], "SeriesDescription": "Exp ADC"}, None),
            (ADC | {"ImageType": ["DERIVED"], "SeriesDescription": "Exp. Apparent Diffusion Coefficient"}, None),
            (PLAIN | {"SequenceName": "*ep_b1400#2"}, None),
            (PLAIN | {"SequenceName": "*ep_b1400t"}, "DWI"),
        ],
        ids=lambda value: str(value and value.get("SeriesDescription", "")) if isinstance(value, dict) else str(value),
    )
    def test_what_a_text_tells(self, tmp_path: Path, fields: dict[str, Any], role: str | None) -> None:
        series(tmp_path, 8, voxels(8), **fields)
        assert stacks(tmp_path)[0].role == role

    @pytest.mark.parametrize(
        ("by_hand", "is_taken"),
        [("dwi = 8\nb = 1400", True), ("dwi = {series = 8, b = 1400}", True), ("dwi = 8", False)],
    )
    def test_a_b_value_that_no_header_has_is_told_by_hand(self, tmp_path: Path, by_hand: str, is_taken: bool) -> None:
        without_dwi(tmp_path / "dicom")
        series(tmp_path / "dicom", 8, voxels(8), **PLAIN)
        (first,) = done(tmp_path).faults
        overrides = read_overrides(f"[{first.case_id}]\n{by_hand}".encode(), "by_hand.toml")
        summary = done(tmp_path, overrides=overrides)
        assert len(summary.cases) == is_taken
        assert is_taken or "unknown (b = 1400 beside dwi tells it)" in summary.faults[0].reason


class TestNames:
    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("PixelSpacing", None, "without PixelSpacing (0028,0030)"),
            ("PixelSpacing", [0, 0.5], "with an odd PixelSpacing (0028,0030)"),
            ("PixelSpacing", [0.5], "with an odd PixelSpacing (0028,0030)"),
            ("PixelSpacing", "", "without PixelSpacing (0028,0030)"),
            ("ImagePositionPatient", None, "without ImagePositionPatient (0020,0032)"),
            ("ImagePositionPatient", [1, 2], "with an odd ImagePositionPatient (0020,0032)"),
            ("ImageOrientationPatient", None, "without ImageOrientationPatient (0020,0037)"),
            ("ImageOrientationPatient", [0, 0, 0, 0, 0, 0], "with an odd ImageOrientationPatient (0020,0037)"),
            ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "with an odd ImageOrientationPatient (0020,0037)"),
            ("Rows", None, "without Rows (0028,0010)"),
            ("Columns", 0, "with an odd Columns (0028,0011)"),
        ],
        ids=str,
    )
    def test_a_tag_that_cannot_be_used_is_named(self, tmp_path: Path, name: str, value: Any, words: str) -> None:
        whole_study(tmp_path / "dicom")
        files = sorted((tmp_path / "dicom").glob("004_*"))
        each(files, lambda _, data: setattr(data, name, value) if value is not None else delattr(data, name))
        assert done(tmp_path).passed_over == {words: 5}
        (row,) = rows(tmp_path, 4)
        assert (row["slices"], row["reason"]) == ("5", f"is {words}")

    def test_a_single_odd_slice_makes_its_volume_incomplete(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        each([tmp_path / "dicom" / "004_004_Doe.dcm"], lambda _, data: delattr(data, "PixelSpacing"))
        (fault,) = done(tmp_path).faults
        assert "lacks slices, which are without PixelSpacing (0028,0030)" in fault.reason

    @pytest.mark.parametrize(
        "fields",
        [
            {"AcquisitionNumber": [1, 2]},
            {"EchoTime": [101, 102]},
            {"SpecificCharacterSet": "ISO 2022 IR 999"},
            {"Rows": [6, 6]},
            {"AcquisitionNumber": ""},
            {"EchoTime": ""},
            {"TemporalPositionIdentifier": [1, 2]},
        ],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:Unknown encoding")
    def test_forms_that_can_be_read_are_read(self, tmp_path: Path, fields: dict[str, Any]) -> None:
        whole_study(tmp_path / "dicom")
        each(sorted((tmp_path / "dicom").glob("007_*")), lambda _, data: put(**fields)(data, True))
        summary = done(tmp_path)
        assert (len(summary.cases), dict(summary.passed_over)) == (1, {})

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda raw: raw[132:], None),
            (lambda raw: gzip.compress(raw), "gzipped (gunzip them first)"),
            (lambda raw: b"PK\x03\x04" + raw, "ZIP archive (unzip it first)"),
            (lambda raw: raw[:100], "no DICOM file"),
            (lambda raw: b"text", "no DICOM file"),
        ],
        ids=["without preamble", "gzipped", "zipped", "cut off", "text"],
    )
    def test_files_in_other_wrappings_are_read_or_named(self, tmp_path: Path, make: Any, words: str | None) -> None:
        whole_study(tmp_path / "dicom")
        for file in (tmp_path / "dicom").glob("007_*"):
            file.write_bytes(make(file.read_bytes()))
        summary = done(tmp_path)
        assert dict(summary.passed_over) == ({words: 5} if words else {})
        assert len(summary.cases) == (0 if words else 1)
        if not words:
            assert np.array_equal(array(tmp_path, "adc"), voxels(7))

    def test_a_dicomdir_is_named_and_its_files_read(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        data = Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.DirectoryRecordSequence = []
        data.save_as(tmp_path / "dicom" / "DICOMDIR", enforce_file_format=False)
        raw = b"\0" * 128 + b"DICM" + (tmp_path / "dicom" / "DICOMDIR").read_bytes().removeprefix(b"\0" * 128 + b"DICM")
        (tmp_path / "dicom" / "DICOMDIR").write_bytes(raw)
        summary = done(tmp_path)
        assert len(summary.cases) == 1
        assert dict(summary.passed_over) == {"DICOMDIR (the files that it lists are read themselves)": 1}

    def test_every_series_has_a_row(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        series(tmp_path / "dicom", 99, voxels(0), SOPClassUID=SecondaryCaptureImageStorage, **T2W)
        series(tmp_path / "dicom", 98, voxels(0), SamplesPerPixel=3, **T2W)
        done(tmp_path)
        assert [row["reason"] for n in (98, 99) for row in rows(tmp_path, n)] == ["is in colour", "is no MR image"]

    def test_a_reason_names_three_and_counts_the_rest(self, tmp_path: Path) -> None:
        whole_study(tmp_path / "dicom")
        for n in range(20, 60):
            series(tmp_path / "dicom", n, voxels(n, 3), (0, 3, 9), **T2W)
        for file in (tmp_path / "dicom").glob("004_*"):
            file.unlink()
        (fault,) = done(tmp_path).faults
        assert fault.reason.endswith("and 37 more")
        assert len(fault.reason) < 400


class TestComputedB:
    def test_two_alike_images_at_a_lower_b_value_are_refused(self, tmp_path: Path) -> None:
        without_dwi(tmp_path / "dicom")
        for n, b in enumerate((50, 400, 400, 800)):
            fields = {"DiffusionBValue": float(b), "AcquisitionNumber": n}
            series(tmp_path / "dicom" / str(n), 9, voxels(n), **PLAIN | fields)
        (fault,) = done(tmp_path, config=SeriesConfig(compute_high_b=True)).faults
        assert "2 DWI b 400 images are alike" in fault.reason

    @pytest.mark.parametrize(
        ("slopes", "scales"),
        [
            ((1, 1, 1), None),
            ((1e-5, 1e-5, 1e-5), None),
            ((50, 50, 50), None),
            ((1, 0.7, 0.5), (1.0, 1 / 0.9, 1 / 0.8)),
            ((2e-3, 1.4e-3, 1e-3), (3.0, 4.0, 5.0)),
            ((1, 1, 1), (1.0, 1.0, 1.0)),
        ],
        ids=str,
    )
    def test_scales_do_not_matter(
        self, tmp_path: Path, slopes: tuple[float, ...], scales: tuple[float, ...] | None
    ) -> None:
        without_dwi(tmp_path / "dicom")
        truth = np.random.default_rng(1).uniform(8000, 15000, voxels(0).shape)
        for n, b in enumerate((50, 400, 800)):
            stored = np.rint(truth * np.exp(-b * 0.0015) * (scales[n] if scales else 1)).astype(np.uint16)
            fields = {"DiffusionBValue": float(b), "RescaleSlope": f"{slopes[n]:g}", "RescaleIntercept": "0"}
            files = series(tmp_path / "dicom" / f"b{b}", 9, stored, **DWI | fields)
            marked(files, *([(PHILIPS_MR, 0x2005, 0x0E, "FL", scales[n])] if scales else []))
        done(tmp_path, config=SeriesConfig(compute_high_b=True, high_b=1400))
        level = slopes[0] * (scales[0] if scales else 1)
        np.testing.assert_allclose(array(tmp_path, "hbv"), truth * np.exp(-1400 * 0.0015) * level, rtol=5e-3)


@pytest.mark.skipif(not shutil.which("dcm2niix"), reason="dcm2niix (PyPI, for development only) is not installed")
@pytest.mark.parametrize("patient", ["ProstateX-0000", "ProstateX-0218"])
def test_volumes_are_dcm2niix_s(shared: Path, tmp_path: Path, patient: str) -> None:
    folder = shared / "data" / "dicom" / patient
    words = [str(shutil.which("dcm2niix")), "-z", "n", "-m", "n", "-f", "%s_%u", "-o", str(tmp_path), str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    theirs = [sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in tmp_path.glob("*.nii")]
    volumes = [volume for image in theirs for volume in (image if image.ndim == 4 else [image])]
    ours = [sitk.GetArrayFromImage(read_volume(stack))[:, ::-1] for stack in stacks(folder)]
    assert len(ours) == len(volumes)
    for one in ours:
        assert any(np.array_equal(one, other) for other in volumes)
