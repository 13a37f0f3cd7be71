"""What the headers of DICOM files give of each slice: position, acquisition, b-value.

pydicom reads the files. A multi-frame (enhanced) file gives a slice a frame; of these, functional groups of the frame
come before shared ones and these before the file's own fields.
"""

import logging
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings show values, of birth dates too
_MR_IMAGES = (MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
Position = tuple[float, float, float]
_PRIVATE_B = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C),
    ("GEMS_PARM_01", 0x0043, 0x39),
    ("Philips Imaging DD 001", 0x2001, 0x03),
)
"""Private creator, group and element of vendors' b-values."""
_GE_OFFSET = 100_000
"""GE adds multiples of this to some b-values, 1e9 as a rule."""
_B_IN_TEXT = re.compile(r"(?<![a-z])b[ =_-]?(\d{1,4})(?![\d_])", re.IGNORECASE)
"""``ep_b800t``; not ``ep_b50_800``, the range that a map was made from."""
_WITHOUT_PREAMBLE = b"\x08\x00"
"""First bytes of a DICOM file that lacks the usual 128 bytes and ``DICM``: group 0008."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice: a file, or a frame of one. Identifying fields are excluded from its repr.

    Attributes:
        file, frame: where its pixels are; frame None in a file of one slice.
        patient, study, study_date, series, instance: ids and date as in the header.
        taken: date and time of the series, sortable.
        is_3d, fat_saturated, burnt_in: how it was made.
        echo_ms: echo time.
        b: b-value in s/mm2.
        directional: measured along one gradient direction.
        acquisition, temporal_position: numbers that may distinguish slices at one position.
        orientation: directions of a row and of a column in the patient (LPS).
        position: of the first pixel, LPS, mm.
        spacing: between columns (x) and rows (y), mm.
        shape: columns (x), rows (y).
    """

    file: Path = field(repr=False)
    frame: int | None
    patient: str = field(repr=False)
    study: str = field(repr=False)
    study_date: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    number: int
    taken: str = field(repr=False)
    kind: tuple[str, ...]
    description: str = field(repr=False)
    scanning: frozenset[str]
    is_3d: bool
    fat_saturated: bool
    burnt_in: bool
    echo_ms: float | None
    b: float | None
    directional: bool
    acquisition: int
    temporal_position: int
    orientation: tuple[float, ...]
    position: Position
    spacing: tuple[float, float]
    shape: tuple[int, int]
    scaling: tuple[float, float]


def read_slices(file: Path) -> list[Slice] | str:
    """The slices of a file, or why it is skipped: no DICOM file, no MR image, or a damaged header.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(132)
    has_no_preamble = start[:2] == _WITHOUT_PREAMBLE
    if not has_no_preamble and start[128:] != b"DICM":
        return "no DICOM file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(file, stop_before_pixels=True, force=has_no_preamble)
            if data.get("SOPClassUID") not in _MR_IMAGES:
                return "no MR image"
            if data.get("SamplesPerPixel", 1) != 1:
                return "in colour"
            return list(_slices(file, data))
    except Exception as error:  # pydicom meets damage with errors of any type
        return f"damaged header ({type(error).__name__})"


def _slices(file: Path, data: Dataset) -> Iterator[Slice]:
    frames = data.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        yield _slice(file, None, [data])
        return
    shared = data.get("SharedFunctionalGroupsSequence") or []
    common = [*(item for group in shared for item in _groups(group)), data]
    for number, frame in enumerate(frames):
        yield _slice(file, number, [*_groups(frame), *common])


def _groups(item: Dataset) -> list[Dataset]:
    """The functional groups of a frame, or those that all frames share."""
    return [element.value[0] for element in item if element.VR == "SQ" and element.value]


def _slice(file: Path, frame: int | None, places: list[Dataset]) -> Slice:
    kind = _texts(places, "FrameType") or _texts(places, "ImageType")
    description = str(_first(places, "SeriesDescription") or "")
    sequence = str(_first(places, "SequenceName", "PulseSequenceName") or "")
    date = str(_first(places, "SeriesDate", "AcquisitionDate") or "")
    time = str(_first(places, "SeriesTime", "AcquisitionTime") or "")
    row_mm, column_mm = (float(step) for step in _first(places, "PixelSpacing"))
    x, y, z = (float(place) for place in _first(places, "ImagePositionPatient"))
    echo = _first(places, "EffectiveEchoTime", "EchoTime")
    return Slice(
        file=file,
        frame=frame,
        patient=str(_first(places, "PatientID") or "").strip(),
        study=str(_first(places, "StudyInstanceUID") or ""),
        study_date=str(_first(places, "StudyDate") or ""),
        series=str(_first(places, "SeriesInstanceUID") or ""),
        instance=str(_first(places, "SOPInstanceUID") or ""),
        number=int(_first(places, "SeriesNumber") or 0),
        taken=date + time,
        kind=kind,
        description=description,
        scanning=frozenset(_scanning(places)),
        is_3d=_first(places, "MRAcquisitionType") == "3D",
        fat_saturated="FS" in _texts(places, "ScanOptions"),
        burnt_in=_first(places, "BurnedInAnnotation") == "YES",
        echo_ms=None if echo is None else float(echo),
        b=_b_value(places, sequence, description),
        directional=_first(places, "DiffusionDirectionality") == "DIRECTIONAL" and "TRACEW" not in kind,
        acquisition=int(_first(places, "AcquisitionNumber") or 0),
        temporal_position=int(_first(places, "TemporalPositionIndex", "TemporalPositionIdentifier") or 0),
        orientation=tuple(float(cosine) for cosine in _first(places, "ImageOrientationPatient")),
        position=(x, y, z),
        spacing=(column_mm, row_mm),
        shape=(int(_first(places, "Columns")), int(_first(places, "Rows"))),
        scaling=(float(_first(places, "RescaleSlope") or 1), float(_first(places, "RescaleIntercept") or 0)),
    )


def _first(places: Iterable[Dataset], *names: str) -> Any:
    """The first value of a field, or of those that stand for it, that is there and not empty."""
    found = (place.get(name) for name in names for place in places)
    return next((value for value in found if value is not None and value != ""), None)


def _texts(places: Iterable[Dataset], name: str) -> tuple[str, ...]:
    value = _first(places, name)
    values = [value] if isinstance(value, str) else list(value or ())
    return tuple(str(one).strip().upper() for one in values)


def _scanning(places: list[Dataset]) -> Iterator[str]:
    """ScanningSequence, or what stands for it in multi-frame files."""
    yield from _texts(places, "ScanningSequence")
    pulse = _first(places, "EchoPulseSequence")
    if pulse in ("SPIN", "BOTH"):
        yield "SE"
    if pulse in ("GRADIENT", "BOTH"):
        yield "GR"
    if _first(places, "EchoPlanarPulseSequence") == "YES":
        yield "EP"


def _b_value(places: list[Dataset], sequence: str, description: str) -> float | None:
    """The b-value: DICOM's own field, then the vendor's, then SequenceName, then SeriesDescription."""
    if (value := _first(places, "DiffusionBValue")) is not None:
        return float(value)
    for creator, group, element in _PRIVATE_B:
        for place in places:
            try:
                value = place.get_private_item(group, element, creator).value
            except KeyError:
                continue
            if (number := _number(value)) is not None:
                return number % _GE_OFFSET
    for text in (sequence, description):
        if found := _B_IN_TEXT.search(text):
            return float(found[1])
    return None


def _number(value: Any) -> float | None:
    """The first number of a private field, whose type is lost in some files: text, or a float of 4 or 8 bytes."""
    if isinstance(value, bytes):
        text = value.rstrip(b"\0 ").decode("latin-1").partition("\\")[0]
        if not re.fullmatch(r"[\d.]+", text) and len(value) in (4, 8):
            return float(struct.unpack("<f" if len(value) == 4 else "<d", value)[0])
        value = text
    elif not isinstance(value, (str, int, float)):
        value = next(iter(value), "")
    try:
        return float(value)
    except ValueError:
        return None
