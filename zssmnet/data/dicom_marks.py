"""Vendors' marks of diffusion and scale in DICOM headers: one table, and how it is read.

Sources: PS3.3 (the standard), pydicom's private dictionary (tags and types of private fields), dcm2niix's notes on each
vendor (what their values mean).
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.datadict import add_private_dict_entries, private_dictionary_VR

Diffusion = Literal["trace", "direction", ""]
"""Mean of all gradient directions, one of them, or unknown."""
Marks = dict[str, list[list[Any]]]


class Mark(NamedTuple):
    """A field: its meaning, private creator (empty: a standard field), group, element (of its block)."""

    meaning: Literal["b", "kind", "vector", "scale", "EPI factor"]
    creator: str
    group: int
    element: int


MARKS = (
    Mark("b", "", 0x0018, 0x9087),  # PS3.3 C.8.13.5.9 DiffusionBValue
    Mark("b", "SIEMENS MR HEADER", 0x0019, 0x0C),  # B_value
    Mark("b", "GEMS_PARM_01", 0x0043, 0x39),  # GE, first of four, may have 1e9 added
    Mark("b", "Philips Imaging DD 001", 0x2001, 0x03),  # Diffusion B-Factor, 0 where there is none
    Mark("b", "Image Private Header", 0x0065, 0x09),  # UIH
    Mark("kind", "", 0x0018, 0x9075),  # PS3.3 C.8.13.5.9 DiffusionDirectionality
    Mark("kind", "SIEMENS MR HEADER", 0x0019, 0x0D),  # DiffusionDirectionality
    Mark("kind", "Philips Imaging DD 001", 0x2001, 0x04),  # Diffusion Direction: I, or M P S O
    Mark("kind", "GEMS_PARM_01", 0x0043, 0x30),  # GE Vas collapse flag: 15 combined, 3 4 5 16 directions
    Mark("vector", "", 0x0018, 0x9089),  # PS3.3 DiffusionGradientOrientation; Toshiba
    Mark("vector", "SIEMENS MR HEADER", 0x0019, 0x0E),  # DiffusionGradientDirection
    Mark("vector", "Philips MR Imaging DD 001", 0x2005, 0xB0),  # Diffusion Direction RL
    Mark("vector", "Philips MR Imaging DD 001", 0x2005, 0xB1),  # AP
    Mark("vector", "Philips MR Imaging DD 001", 0x2005, 0xB2),  # FH
    Mark("vector", "Image Private Header", 0x0065, 0x37),  # UIH
    Mark("scale", "Philips MR Imaging DD 001", 0x2005, 0x0E),  # Scale Slope: stored / it is comparable
    Mark("EPI factor", "Philips Imaging DD 001", 0x2001, 0x13),  # above 1 where echo-planar
)
# pydicom decodes private fields whose type is lost (implicit, or UN) by its dictionary, which lacks these
_UIH = {0x0065_1009: ("FD", "1", "B Value", ""), 0x0065_1037: ("FD", "3", "Diffusion Gradient Direction", "")}
add_private_dict_entries("Image Private Header", _UIH)
_BINARY = {"FD": "<f8", "FL": "<f4", "SS": "<i2", "SL": "<i4"}
_KINDS: dict[str, Diffusion] = dict.fromkeys(("ISOTROPIC", "I", "15"), "trace")
_KINDS |= dict.fromkeys(("DIRECTIONAL", "BMATRIX", "M", "P", "S", "O", "3", "4", "5", "16"), "direction")
TRACES = frozenset({"TRACEW", "TRACE", "CALC_BVAL", "ISOTROPIC"})
"""Values of ImageType."""
_GE_OFFSET = 100_000
_B_IN_TEXT = re.compile(r"(?<![a-z])b(?:[ _-]?val(?:ue)?)?[ :=_-]{0,2}(\d{1,4})(?!\d|[-_/,] ?\d)", re.IGNORECASE)
"""``ep_b800t``, ``b-value: 800``; not ``ep_b50_800``, the range that a map was made from."""
_ONE_DIRECTION = re.compile(r"b\d+#\d")
"""SequenceName of Siemens: ``ep_b800#3``."""
_CANON = re.compile(r"^\s*\[?b=([\d.]+)(?:\(([^)]*)\))?")
"""ImageComments (0020,4000): ``b=1500(0.445,0.000,0.895)``, b-value and direction."""


def listed(value: Any) -> list[Any]:
    """The parts of a field's value, in whatever form it has."""
    if isinstance(value, bytes):  # its type is lost
        value = value.decode("latin-1").strip("\0 ")
    if isinstance(value, str):
        return value.split("\\") if value else []
    return [] if value is None else list(value) if isinstance(value, Iterable) else [value]


def numbers(value: Any) -> list[float]:
    """The numbers of a field's value; none where one of them is no finite number."""
    try:
        found = [float(str(part).replace(",", ".")) for part in listed(value)]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def b_value(marks: Marks, texts: Iterable[str]) -> float | None:
    """The b-value in s/mm2: the standard field's, then the vendor's, then the only one in a text."""
    for values in marks["b"]:
        if (found := numbers(values[:1])) and found[0] >= 0:
            return found[0] % _GE_OFFSET
    named = ({float(one) for one in _B_IN_TEXT.findall(text)} for text in texts)
    return next((found.pop() for found in named if len(found) == 1), None)


def diffusion_kind(marks: Marks, image_type: Iterable[str], sequence: str) -> Diffusion:
    """Whether a diffusion image shows one gradient direction or all; a mark of all outweighs the others."""
    kinds = {_KINDS.get(str(values[0]).strip().upper(), "") for values in marks["kind"]}
    if "trace" in kinds or not TRACES.isdisjoint(image_type):
        return "trace"
    has_vector = any(math.hypot(*numbers(values)) > 0.1 for values in marks["vector"])
    return "direction" if "direction" in kinds or has_vector or _ONE_DIRECTION.search(sequence) else ""


def read_marks(places: list[Dataset]) -> Marks:
    """The values of each field that is there, by its meaning, in the table's order."""
    marks: Marks = defaultdict(list)
    blocks = [_blocks(place) for place in places]
    for mark, (place, block) in product(MARKS, zip(places, blocks, strict=True)):
        start = block.get((mark.group, mark.creator)) if mark.creator else 0
        tag = mark.group << 16 | (start or 0) | mark.element
        with suppress(Exception):  # it is damaged
            if start is not None and tag in place and (values := listed(_decoded(place[tag].value, tag, mark.creator))):
                marks[mark.meaning].append(values)
    for place in places:
        with suppress(Exception):
            if found := _CANON.search(str(place.get("ImageComments", ""))):
                marks["b"].append([found[1]])
                marks["vector"].append((found[2] or "").split(","))
    return marks


def _decoded(value: Any, tag: int, creator: str) -> Any:
    """A value as it is; numbers where an archive has made bytes (OB) of a vendor's field of numbers."""
    if not isinstance(value, bytes) or not creator or re.fullmatch(rb"[\d.\\ -]+\0?", value):
        return value
    kind = _BINARY.get(private_dictionary_VR(tag, creator))
    return np.frombuffer(value, kind).tolist() if kind else value


def _blocks(place: Dataset) -> dict[tuple[int, str], int]:
    """Where the elements of each group and private creator begin; pydicom's own search sorts all fields each time."""
    creators = [tag for tag in place.keys() if (tag >> 16) & 1 and 0x10 <= tag & 0xFFFF <= 0xFF]  # noqa: SIM118
    return {(tag >> 16, str(place[tag].value).strip()): (tag & 0xFF) << 8 for tag in creators}
