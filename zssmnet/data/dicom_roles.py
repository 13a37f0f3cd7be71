"""What a DICOM slice shows, by its header: T2W, ADC, DWI, or why it is none of them."""

import re
from collections.abc import Hashable
from typing import Literal

import numpy as np

from zssmnet.data.dicom_headers import Slice

Role = Literal["T2W", "ADC", "DWI"]
LOWEST_T2_ECHO_MS = 60.0
_NOT_ACQUIRED = frozenset({"LOCALIZER", "MPR", "MIP", "MNIP", "PROJECTION IMAGE", "SCREEN SAVE", "SUBTRACTION"})
_NOT_ACQUIRED |= {"MOSAIC", "VFRAME", "PHASE", "PHASE MAP", "P", "REAL", "R", "IMAGINARY", "I"}
_OTHER_MAPS = frozenset({"FA", "EADC", "EXPONENTIAL", "TENSOR", "COLFA"})
_ADC_IN_TEXT = re.compile(r"(?<![a-z])d?adc(?![a-z])|apparent diffusion", re.IGNORECASE)
_OTHER_MAP_IN_TEXT = re.compile(r"e-?adc|exponential|(?<![a-z])fa(?![a-z])", re.IGNORECASE)
_T2_IN_TEXT = re.compile(r"(?<![a-z])t2(?![a-z*])", re.IGNORECASE)
_SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
_PLANES = ("sagittal", "coronal", "axial")


def normal_of(one: Slice) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The slice's normal."""
    return np.cross(one.orientation[:3], one.orientation[3:])


def content_of(one: Slice) -> Hashable:
    """What an image shows, by marks that may differ within a series; other values of ImageType mean nothing here."""
    telling = {word for word in one.kind if word in _NOT_ACQUIRED | _OTHER_MAPS or word.startswith("ADC")}
    return one.diffusion if one.b else "", one.b is None, frozenset(telling)


def role_of(one: Slice, beside_diffusion: bool) -> tuple[Role | None, str]:
    """What slices show, by their headers; SeriesDescription is the last resort."""
    kind = set(one.kind)
    if "BURNT IN" in one.traits:
        return None, "has text burnt into its pixels"
    if kind & _NOT_ACQUIRED:
        return None, f"is no acquired volume ({', '.join(sorted(kind & _NOT_ACQUIRED))})"
    if (plane := _PLANES[int(np.abs(normal_of(one)).argmax())]) != "axial":
        return None, f"is {plane}"
    by_text = "DERIVED" in kind or "SECONDARY" in kind
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
