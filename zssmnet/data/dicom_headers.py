"""What the headers of DICOM files give of each slice: position, acquisition, b-value.

pydicom reads the files. A multi-frame (enhanced) file gives a slice a frame; of these, functional groups of the frame
come before shared ones and these before the file's own fields.
"""

import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from zssmnet.data.dicom_marks import Diffusion, Marks, b_value, diffusion_kind, numbers, read_marks

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings show values, of birth dates too
_MR_IMAGES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
NOT_MR = frozenset({"no MR image", "in colour"})
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
_NESTED = ("MRDiffusionSequence", "DiffusionGradientDirectionSequence", "RealWorldValueMappingSequence")
_WITHOUT_PREAMBLE = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""First bytes of a DICOM file that lacks the usual 128 bytes and ``DICM``: group 0002 or 0008."""
_PACKED = {b"\x1f\x8b": "gzipped (gunzip them first)", b"PK": "ZIP archive (unzip it first)"}


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice: a file, or a frame of one (``frame`` is None in a file of one slice). Its repr identifies nobody."""

    file: Path = field(repr=False)
    frame: int | None
    patient: str = field(repr=False)
    person: str = field(repr=False)  # PatientID, or name and birth date where it is missing
    study: str = field(repr=False)
    study_date: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    number: int  # of the series
    taken: str = field(repr=False)  # date and time of the series, sortable
    acquired: str = field(repr=False)  # the same of the acquisition
    kind: tuple[str, ...]  # ImageType
    description: str = field(repr=False)
    traits: frozenset[str]  # ScanningSequence, or what stands for it; 3D, FS (fat saturation), BURNT IN
    echo_ms: float | None
    b: float | None  # s/mm2
    diffusion: Diffusion  # of one gradient direction or of all, where that is known
    acquisition: int  # as the next, may distinguish slices at one position
    temporal_position: int
    orientation: tuple[float, ...]  # directions of a row and of a column in the patient (LPS)
    position: tuple[float, float, float]  # of the first pixel, LPS, mm
    spacing: tuple[float, float]  # between columns (x) and rows (y), mm
    shape: tuple[int, int]  # columns (x), rows (y)
    scaling: tuple[float, float]  # slope and intercept of stored values
    is_mapped: bool  # has a real-world value mapping, which is the scaling where there is no other
    scale_slope: float | None  # Philips': stored values divided by it are comparable between images
    is_signed: bool  # the stored values
    unusable: str  # why it has no place in a volume: its geometry means nothing


def read_slices(file: Path) -> list[Slice] | str:
    """The slices of a file, also unusable ones, or why it is skipped: no DICOM file, or nobody's.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(132)
    has_preamble = start[128:] == b"DICM"
    if not has_preamble and not start.startswith(_WITHOUT_PREAMBLE):
        return _PACKED.get(start[:2], "no DICOM file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(file, stop_before_pixels=True, force=not has_preamble)
            if "DirectoryRecordSequence" in data:
                return "DICOMDIR (the files that it lists are read themselves)"
            sop_class = data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID")
            is_mr = sop_class in _MR_IMAGES or (not sop_class and data.get("Modality") == "MR")
            if not is_mr or data.get("SamplesPerPixel", 1) != 1:
                return [_slice(file, None, [data], "in colour" if is_mr else "no MR image")]
            slices = list(_slices(file, data))
    except Exception as error:  # pydicom meets damage with errors of any type
        return f"damaged header ({type(error).__name__})"
    if not (slices and (slices[0].person or slices[0].study)):
        return "without PatientID (0010,0020) and StudyInstanceUID (0020,000D)"
    return slices


def _slices(file: Path, data: Dataset) -> Iterator[Slice]:
    frames = data.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        yield _slice(file, None, [data])
        return
    shared = data.get("SharedFunctionalGroupsSequence") or []
    common = [*(item for group in shared for item in _groups(group)), data]
    for number, frame in enumerate(frames):
        yield _slice(file, number, [*_groups(frame), *common, *_groups(frame, private=True)])


def _groups(item: Dataset, private: bool = False) -> list[Dataset]:
    """The functional groups of a frame, or those that all frames share."""
    sequences = (one for one in item if one.VR == "SQ" and one.value and one.tag.is_private == private)
    return [sequence.value[0] for sequence in sequences]


def _slice(file: Path, frame: int | None, places: list[Dataset], unusable: str = "") -> Slice:
    for name in _NESTED:
        tag = _tag_of(name)
        places += [place[tag].value[0] for place in places if tag in place and place[tag].value]
    marks = read_marks(places)
    kind = _texts(places, "FrameType") or _texts(places, "ImageType")
    description = _text(places, "SeriesDescription")
    number = int(_number(places, "SeriesNumber") or 0)
    patient = _text(places, "PatientID")
    geometry, odd = _geometry(places)
    rescale = _number(places, "RescaleSlope") or 1.0, _number(places, "RescaleIntercept") or 0.0
    mapped = _number(places, "RealWorldValueSlope") or 1.0, _number(places, "RealWorldValueIntercept") or 0.0
    x, y, z = geometry["ImagePositionPatient"]
    row_mm, column_mm = geometry["PixelSpacing"]
    return Slice(
        file=file,
        frame=frame,
        patient=patient,
        person=patient or f"{_text(places, 'PatientName')} {_text(places, 'PatientBirthDate')}".strip(),
        study=_text(places, "StudyInstanceUID"),
        study_date=_text(places, "StudyDate"),
        series=_text(places, "SeriesInstanceUID") or f"number {number}",
        instance=_text(places, "SOPInstanceUID"),
        frame_of_reference=_text(places, "FrameOfReferenceUID"),
        number=number,
        taken=_text(places, "SeriesDate", "AcquisitionDate") + _text(places, "SeriesTime", "AcquisitionTime"),
        acquired=_text(places, "FrameAcquisitionDateTime", "AcquisitionDateTime")
        or _text(places, "AcquisitionDate", "ContentDate") + _text(places, "AcquisitionTime", "ContentTime"),
        kind=kind,
        description=description,
        traits=frozenset(_traits(places, marks)),
        echo_ms=_number(places, "EffectiveEchoTime", "EchoTime"),
        b=b_value(marks, (_text(places, "SequenceName", "PulseSequenceName"), description)),
        diffusion=diffusion_kind(marks, kind),
        acquisition=int(_number(places, "FrameAcquisitionNumber", "AcquisitionNumber") or 0),
        temporal_position=int(_number(places, "TemporalPositionIndex", "TemporalPositionIdentifier") or 0),
        orientation=geometry["ImageOrientationPatient"],
        position=(x, y, z),
        spacing=(column_mm, row_mm),
        shape=(int(geometry["Columns"][0]), int(geometry["Rows"][0])),
        scaling=mapped if rescale == (1.0, 0.0) else rescale,
        is_mapped=mapped != (1.0, 0.0),
        scale_slope=next((found[0] for one in marks["scale"] if (found := numbers(one)) > [0]), None),
        is_signed=bool(_number(places, "PixelRepresentation")),
        unusable=unusable or odd,
    )


def _geometry(places: list[Dataset]) -> tuple[dict[str, tuple[float, ...]], str]:
    """Fields that place a slice, and what is wrong with the first one that cannot be used (its values are zeros)."""
    geometry: dict[str, tuple[float, ...]] = {}
    fault = ""
    for name, count in _GEOMETRY.items():
        value = _first(places, name)
        found = tuple(numbers(value))[: 1 if count == 1 else None] if value is not None else ()
        is_right = len(found) == count and (count in (3, 6) or min(found) > 0)
        if is_right and count == 6:
            row, column = found[:3], found[3:]
            cosine = sum(a * b for a, b in zip(row, column, strict=True))
            is_right = max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1), abs(cosine)) < 0.01
        if not is_right:
            tag = _tag_of(name)
            state = "without" if value is None else "with an odd"
            fault = fault or f"{state} {name} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
        geometry[name] = found if is_right else (0.0,) * count
    return geometry, fault


def _first(places: Iterable[Dataset], *names: str) -> Any:
    """The first value of a field, or of those that stand for it, that is there, not empty, and can be decoded."""
    for tag, place in product(map(_tag_of, names), places):
        with suppress(Exception):  # pydicom meets damage with errors of any type
            if tag in place and (value := place[tag].value) is not None and value != "" and value != []:
                return value
    return None


@cache
def _tag_of(name: str) -> int:
    return tag_for_keyword(name) or 0


def _text(places: list[Dataset], *names: str) -> str:
    value = _first(places, *names)
    return "" if value is None else str(value).strip()


def _number(places: list[Dataset], *names: str) -> float | None:
    value = _first(places, *names)
    return next(iter(numbers(value)), None) if value is not None else None


def _texts(places: Iterable[Dataset], name: str) -> tuple[str, ...]:
    value = _first(places, name)
    values = [value] if isinstance(value, str) else list(value or ())
    return tuple(str(one).strip().upper() for one in values)


def _traits(places: list[Dataset], marks: Marks) -> Iterator[str]:
    yield from _texts(places, "ScanningSequence")
    pulse = _first(places, "EchoPulseSequence")
    has_epi_factor = any(numbers(one) > [1] for one in marks["EPI factor"])
    signs = {
        "SE": pulse in ("SPIN", "BOTH"),
        "GR": pulse in ("GRADIENT", "BOTH"),
        "EP": has_epi_factor or _first(places, "EchoPlanarPulseSequence") == "YES",
        "3D": _first(places, "MRAcquisitionType") == "3D",
        "FS": "FS" in _texts(places, "ScanOptions"),
        "BURNT IN": _first(places, "BurnedInAnnotation") == "YES",
    }
    yield from (name for name, is_so in signs.items() if is_so)
