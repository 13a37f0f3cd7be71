"""What the headers of DICOM files give of each slice: position, acquisition, b-value; T2W, ADC, DWI or none of them.

pydicom reads the files. A multi-frame (enhanced) file gives a slice a frame; of these, functional groups of the frame
come before shared ones and these before the file's own fields.
"""

import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from zssmnet.data.dicom_marks import TRACES, Marks, b_value, diffusion_kind, listed, numbers, read_marks

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings show values, of birth dates too
_MR_IMAGES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
NOT_MR = frozenset({"no MR image", "in colour"})
_GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "Rows": 1, "Columns": 1}
_NESTED = ("MRDiffusionSequence", "DiffusionGradientDirectionSequence", "RealWorldValueMappingSequence")
_WITHOUT_PREAMBLE = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
"""First bytes of a DICOM file that lacks the usual 128 bytes and ``DICM``: group 0002 or 0008."""
_PACKED = {b"\x1f\x8b": "gzipped (gunzip them first)", b"PK": "ZIP archive (unzip it first)"}
Role = Literal["T2W", "ADC", "DWI"]
LOWEST_T2_ECHO_MS = 60.0
_NOT_ACQUIRED = frozenset({"LOCALIZER", "MPR", "MIP", "MNIP", "PROJECTION IMAGE", "SCREEN SAVE", "SUBTRACTION"})
_NOT_ACQUIRED |= {"MOSAIC", "VFRAME", "PHASE", "PHASE MAP", "P", "REAL", "R", "IMAGINARY", "I"}
_OTHER_MAPS = frozenset({"FA", "EADC", "EXPONENTIAL", "TENSOR", "COLFA"})
_ADC_IN_TEXT = re.compile(r"(?<![a-z])d?adc(?:map)?(?![a-z])|apparent diffusion", re.IGNORECASE)
_OTHER_MAP_IN_TEXT = re.compile(r"(?<![a-z])(?:e-?adc|exp(?:adc|onential)?(?![a-z])|fa(?![a-z]))", re.IGNORECASE)
_T2_IN_TEXT = re.compile(r"(?<![a-z])t2(?![a-z*])", re.IGNORECASE)
_SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
_PLANES = ("sagittal", "coronal", "axial")
_tag_of = cache(Tag)


class Slice:
    """One slice: a file, or a frame of one (``frame`` is None in a file of one slice).

    Args:
        places: where its fields may stand, the first ones first.
        unusable: why it has no place in a volume; else that its geometry means nothing.
    """

    def __init__(self, file: Path, frame: int | None, places: list[Dataset], unusable: str = "") -> None:
        for tag in map(_tag_of, _NESTED):
            places = [*places, *(place[tag].value[0] for place in places if tag in place and place[tag].value)]
        fields, marks = _Fields(places), read_marks(places)
        self.file, self.frame = file, frame
        self.patient = fields.text("PatientID")
        self.name, self.birth_date = fields.text("PatientName"), fields.text("PatientBirthDate")
        self.person = self.patient or f"{self.name} {self.birth_date}".strip()
        self.study, self.study_date = fields.text("StudyInstanceUID"), fields.text("StudyDate")
        self.number = fields.whole("SeriesNumber")
        self.series = fields.text("SeriesInstanceUID") or f"number {self.number}"
        self.frame_of_reference = fields.text("FrameOfReferenceUID")
        # date and time of the series and of the acquisition, sortable
        self.taken = fields.text("SeriesDate", "AcquisitionDate") + fields.text("SeriesTime", "AcquisitionTime")
        date, time = fields.text("AcquisitionDate", "ContentDate"), fields.text("AcquisitionTime", "ContentTime")
        self.acquired = fields.text("FrameAcquisitionDateTime", "AcquisitionDateTime") or date + time
        self.acquisition = fields.whole("FrameAcquisitionNumber", "AcquisitionNumber")
        self.temporal_position = fields.whole("TemporalPositionIndex", "TemporalPositionIdentifier")
        self.kind = fields.texts("FrameType") or fields.texts("ImageType")
        self.description = fields.text("SeriesDescription")
        self.traits = _traits(fields, marks)
        self.echo_ms = fields.number("EffectiveEchoTime", "EchoTime")
        sequence = fields.text("SequenceName", "PulseSequenceName")
        self.b = b_value(marks, (sequence, self.description))  # s/mm2
        self.diffusion = diffusion_kind(marks, self.kind, sequence)
        # what it shows, by marks that may differ within a series; other values of ImageType mean nothing here
        telling = {word for word in self.kind if word in _NOT_ACQUIRED | _OTHER_MAPS or word.startswith("ADC")}
        self.content = self.diffusion if self.b else "", self.b is None, frozenset(telling)
        geometry, odd = _geometry(fields)
        self.unusable = unusable or odd
        self.orientation = geometry["ImageOrientationPatient"]  # directions of a row and of a column, LPS
        self.normal: npt.NDArray[np.float64] = np.cross(self.orientation[:3], self.orientation[3:])
        x, y, z = geometry["ImagePositionPatient"]
        self.position = x, y, z  # of the first pixel, LPS, mm
        row_mm, column_mm = geometry["PixelSpacing"]
        self.spacing = column_mm, row_mm  # x, y
        self.shape = int(geometry["Columns"][0]), int(geometry["Rows"][0])  # x, y
        rescale = fields.number("RescaleSlope") or 1.0, fields.number("RescaleIntercept") or 0.0
        mapped = fields.number("RealWorldValueSlope") or 1.0, fields.number("RealWorldValueIntercept") or 0.0
        self.is_mapped = mapped != (1.0, 0.0)
        self.scaling = mapped if rescale == (1.0, 0.0) else rescale  # slope and intercept of stored values
        # Philips': stored values divided by it are comparable between images
        self.scale_slope = next((found[0] for one in marks["scale"] if (found := numbers(one)) > [0]), None)
        self.is_signed = bool(fields.whole("PixelRepresentation"))


class _Fields:
    def __init__(self, places: list[Dataset]) -> None:
        self.places = places

    def first(self, *names: str) -> Any:
        """The first value of a field, or of those that stand for it, that is there, not empty, and can be decoded."""
        for tag, place in product(map(_tag_of, names), self.places):
            with suppress(Exception):  # pydicom meets damage with errors of any type
                if tag in place and (value := place[tag].value) is not None and value != "" and value != []:
                    return value
        return None

    def text(self, *names: str) -> str:
        value = self.first(*names)
        return "" if value is None else str(value).strip()

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(str(one).strip().upper() for one in listed(self.first(name)))

    def number(self, *names: str) -> float | None:
        return next(iter(numbers(self.first(*names))), None)

    def whole(self, *names: str) -> int:
        return int(self.number(*names) or 0)


def _geometry(fields: _Fields) -> tuple[dict[str, tuple[float, ...]], str]:
    """Fields that place a slice, and what is wrong with the first one, or its scale, that cannot be used."""
    geometry: dict[str, tuple[float, ...]] = {}
    faults: list[str] = []
    for name, count in _GEOMETRY.items():
        value = fields.first(name)
        found = numbers(value)[: 1 if count == 1 else None]
        is_right = len(found) == count and (count in (3, 6) or min(found) > 0)
        if is_right and count == 6:
            row, column = np.reshape(found, (2, 3))
            is_right = max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1), abs(row @ column)) < 0.01
        if not is_right:
            faults.append(f"{'without' if value is None else 'with an odd'} {name} {_tag_of(name)}")
        geometry[name] = tuple(found) if is_right else (0.0,) * count
    scale = {name: fields.first(name) for name in ("RescaleSlope", "RescaleIntercept")}
    odd = (name for name, value in scale.items() if value is not None and not numbers(value))
    faults += (f"with an odd {name} {_tag_of(name)}" for name in odd)
    return geometry, "".join(faults[:1])


def _traits(fields: _Fields, marks: Marks) -> frozenset[str]:
    """ScanningSequence, or what stands for it; 3D, FS (fat saturation), BURNT IN."""
    pulse = fields.first("EchoPulseSequence")
    has_epi_factor = any(numbers(one) > [1] for one in marks["EPI factor"])
    signs = {
        "SE": pulse in ("SPIN", "BOTH"),
        "GR": pulse in ("GRADIENT", "BOTH"),
        "EP": has_epi_factor or fields.first("EchoPlanarPulseSequence") == "YES",
        "3D": fields.first("MRAcquisitionType") == "3D",
        "FS": "FS" in fields.texts("ScanOptions"),
        "BURNT IN": fields.first("BurnedInAnnotation") == "YES",
    }
    return frozenset(fields.texts("ScanningSequence")) | {name for name, is_so in signs.items() if is_so}


def read_slices(file: Path) -> list[Slice] | str:
    """The slices of a file, also unusable ones, or why it is skipped: no DICOM file, nobody's, or unreadable."""
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return "unreadable"
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
            photometric = str(data.get("PhotometricInterpretation", "MONOCHROME2"))
            if not is_mr or data.get("SamplesPerPixel", 1) != 1 or not photometric.startswith("MONOCHROME"):
                return [Slice(file, None, [data], "in colour" if is_mr else "no MR image")]
            slices = list(_slices(file, data, "inverted (MONOCHROME1)" if photometric == "MONOCHROME1" else ""))
    except Exception as error:  # pydicom meets damage with errors of any type
        return f"damaged header ({type(error).__name__})"
    if not (slices and (slices[0].person or slices[0].study)):
        return "without PatientID (0010,0020) and StudyInstanceUID (0020,000D)"
    return slices


def _slices(file: Path, data: Dataset, unusable: str) -> Iterator[Slice]:
    frames = data.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        several = "several frames in a file without their places" if int(data.get("NumberOfFrames") or 1) > 1 else ""
        yield Slice(file, None, [data], unusable or several)
        return
    shared = data.get("SharedFunctionalGroupsSequence") or []
    common = [*(item for group in shared for item in _groups(group)), data]
    for number, frame in enumerate(frames):
        yield Slice(file, number, [*_groups(frame), *common, *_groups(frame, private=True)], unusable)


def _groups(item: Dataset, private: bool = False) -> list[Dataset]:
    """The functional groups of a frame, or those that all frames share."""
    sequences = (one for one in item if one.VR == "SQ" and one.value and one.tag.is_private == private)
    return [sequence.value[0] for sequence in sequences]


def role_of(one: Slice, beside_diffusion: bool) -> tuple[Role | None, str]:
    """What slices show, by their headers; SeriesDescription is the last resort."""
    kind = set(one.kind)
    if "BURNT IN" in one.traits:
        return None, "has text burnt into its pixels"
    if kind & _NOT_ACQUIRED:
        return None, f"is no acquired volume ({', '.join(sorted(kind & _NOT_ACQUIRED))})"
    if (plane := _PLANES[int(np.abs(one.normal).argmax())]) != "axial":
        return None, f"is {plane}"
    is_trace = one.b and not kind.isdisjoint(TRACES)  # of a protocol that may be called after its ADC map
    by_text = not is_trace and ("ORIGINAL" not in kind or "SECONDARY" in kind)
    if kind & _OTHER_MAPS or (by_text and _OTHER_MAP_IN_TEXT.search(one.description)):
        return None, "is another map of diffusion"
    if any(part.startswith("ADC") for part in kind):
        return "ADC", "ADC by ImageType"
    if by_text and _ADC_IN_TEXT.search(one.description):
        return "ADC", "ADC by SeriesDescription"
    return _role_of_signal(one, beside_diffusion)


def _role_of_signal(one: Slice, beside_diffusion: bool) -> tuple[Role | None, str]:
    has_b = one.b is not None and (one.b > 0 or beside_diffusion)
    is_diffusion = has_b or "DIFFUSION" in one.kind or "EP" in one.traits
    has_sequence = not one.traits.isdisjoint(_SEQUENCES)
    if one.b is not None and (is_diffusion or not has_sequence):
        if one.diffusion == "direction" and one.b > 0:
            return None, "is one gradient direction, no trace"
        return "DWI", f"diffusion with b {one.b:g} s/mm2"
    if is_diffusion:
        return None, "is echo-planar without a b-value"
    if one.echo_ms is not None and has_sequence:
        is_t2 = "SE" in one.traits and one.echo_ms >= LOWEST_T2_ECHO_MS
        return ("T2W", f"spin echo, echo time {one.echo_ms:g} ms") if is_t2 else (None, "is not T2-weighted")
    if _T2_IN_TEXT.search(one.description):
        return "T2W", "T2W by SeriesDescription"
    return None, "is not recognised"
