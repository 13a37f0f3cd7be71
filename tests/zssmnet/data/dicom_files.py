"""Small DICOM series, made by pydicom, as scanners and archives write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

PATIENT = {"PatientName": "Doe^Jane", "PatientID": "SECRET-4711", "PatientBirthDate": "19440229"}
STUDY = generate_uid(entropy_srcs=["study"])
SHAPE = (6, 8)  # rows, columns
AXIAL = [1, 0, 0, 0, 1, 0]
T2W = {"ScanningSequence": "SE", "EchoTime": 101, "ImageType": ["ORIGINAL", "PRIMARY", "M"]}
ADC = {"ScanningSequence": "EP", "EchoTime": 63, "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}
DWI = {"ScanningSequence": "EP", "EchoTime": 63, "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]}


def voxels(seed: int, slices: int = 5) -> np.ndarray:
    """Voxels (z, y, x) of a series."""
    return np.random.default_rng(seed).integers(0, 4000, (slices, *SHAPE)).astype(np.uint16)


def header(number: int, **fields: Any) -> Dataset:
    """What all slices of a series share."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in {
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "StudyInstanceUID": STUDY,
        "StudyDate": "20110707",
        "SeriesInstanceUID": generate_uid(entropy_srcs=[f"series {number}"]),
        "SeriesNumber": number,
        "SeriesDate": "20110707",
        "SeriesTime": f"1200{number % 60:02d}",
        "SeriesDescription": "Doe Jane",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": SHAPE[0],
        "Columns": SHAPE[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        **PATIENT,
        **fields,
    }.items():
        setattr(data, name, value)
    return data


def series(
    folder: Path,
    number: int,
    values: np.ndarray,
    positions: Sequence[float] | None = None,
    private: tuple[str, int, int, str, Any] | None = None,
    **fields: Any,
) -> list[Path]:
    """Write a series, a file a slice.

    Args:
        folder: where to.
        number: series number.
        values: voxels (z, y, x).
        positions: z of the slices in mm; 3 mm apart if none are given.
        private: creator, group, element, value representation and value of a private field.
        fields: further fields, or other values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, plane in enumerate(values):
        fields = {"ImageOrientationPatient": AXIAL, "PixelSpacing": [0.6, 0.5], "SliceThickness": 3} | fields
        data = header(number, **fields)
        data.ImagePositionPatient = [-10, -20, 3.0 * index if positions is None else positions[index]]
        data.SOPInstanceUID = generate_uid(entropy_srcs=[f"{number} {index} {folder}"])
        data.InstanceNumber = index + 1
        data.PixelData = plane.tobytes()
        if private:
            creator, group, element, representation, value = private
            data.private_block(group, creator, create=True).add_new(element, representation, value)
        files.append(folder / f"{number:03d}_{index:03d}_Doe.dcm")
        data.save_as(files[-1], enforce_file_format=True)
    return files


def multi_frame(folder: Path, number: int, values: np.ndarray, b_values: Sequence[float], order: Sequence[int]) -> Path:
    """Write an enhanced diffusion series, all frames in one file.

    Args:
        folder: where to.
        number: series number.
        values: voxels (b, z, y, x).
        b_values: of the first axis.
        order: of the frames in the file, indices into all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = header(number, SOPClassUID=EnhancedMRImageStorage, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "NONE"])
    data.EchoPulseSequence, data.EchoPlanarPulseSequence = "SPIN", "YES"
    data.SOPInstanceUID = generate_uid(entropy_srcs=[f"{number}"])
    frames = [(b, z) for b in range(len(b_values)) for z in range(values.shape[1])]
    data.NumberOfFrames = len(frames)
    data.SharedFunctionalGroupsSequence = [
        _group(
            PlaneOrientationSequence=_group(ImageOrientationPatient=AXIAL),
            PixelMeasuresSequence=_group(PixelSpacing=[0.6, 0.5], SliceThickness=3),
            MREchoSequence=_group(EffectiveEchoTime=63.0),
        )
    ]
    data.PerFrameFunctionalGroupsSequence = [
        _group(
            PlanePositionSequence=_group(ImagePositionPatient=[-10, -20, 3.0 * frames[i][1]]),
            MRDiffusionSequence=_group(
                DiffusionBValue=float(b_values[frames[i][0]]), DiffusionDirectionality="ISOTROPIC"
            ),
            PixelValueTransformationSequence=_group(RescaleSlope=2, RescaleIntercept=5),
        )
        for i in order
    ]
    data.PixelData = b"".join(values[frames[i]].tobytes() for i in order)
    file = folder / f"{number}_enhanced"
    data.save_as(file, enforce_file_format=True)
    return file


def whole_study(folder: Path, b: float = 1400.0) -> dict[str, np.ndarray]:
    """Write a study of T2W (series 4), ADC (7) and high-b DWI (8); its voxels."""
    images = {"t2w": voxels(4), "adc": voxels(7), "hbv": voxels(8)}
    series(folder, 4, images["t2w"], **T2W)
    series(folder, 7, images["adc"], **ADC)
    series(folder, 8, images["hbv"], DiffusionBValue=b, **DWI)
    return images


def change(file: Path, **fields: Any) -> None:
    """Write a file anew with other values."""
    data = pydicom.dcmread(file)
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(file)


def _group(**fields: Any) -> Dataset:
    item = Dataset()
    for name, value in fields.items():
        setattr(item, name, [value] if isinstance(value, Dataset) else value)
    return item
