"""DICOM files grouped into stacks, the slices that make one volume, and what each stack shows.

A series may hold several stacks, one for each b-value as a rule. Names of files and folders mean nothing.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom

from zssmnet.data.dicom_headers import Slice, read_slices

Role = Literal["T2W", "ADC", "DWI"]
GAP_TOLERANCE = 0.05
"""Largest deviation of a gap between slices from the median gap, as a share of it."""
LOWEST_T2_ECHO_MS = 60.0
_SAME_PLACE_MM = 0.01
_NOT_ACQUIRED = frozenset({"LOCALIZER", "MPR", "MIP", "MNIP", "PROJECTION IMAGE", "SCREEN SAVE", "SUBTRACTION"})
_OTHER_MAPS = frozenset({"FA", "EADC", "EXPONENTIAL", "TENSOR", "COLFA"})
_ADC_IN_TEXT = re.compile(r"(?<![a-z])d?adc(?![a-z])|apparent diffusion", re.IGNORECASE)
_OTHER_MAP_IN_TEXT = re.compile(r"e-?adc|exponential|(?<![a-z])fa(?![a-z])", re.IGNORECASE)
_T2_IN_TEXT = re.compile(r"(?<![a-z])t2(?![a-z*])", re.IGNORECASE)
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class Stack:
    """Slices of one volume, ordered from feet to head along their normal.

    Attributes:
        slices: one a position.
        role: what it can be used as; None if nothing.
        reason: what it was recognised by, or why it has no role.
        fault: why it makes no volume, as a missing slice; empty if it does.
    """

    slices: tuple[Slice, ...]
    role: Role | None
    reason: str
    fault: str

    @property
    def first(self) -> Slice:
        """The slice nearest the feet."""
        return self.slices[0]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing x, y, z."""
        places = positions_along_normal(self.slices)
        step = float(places[-1] - places[0]) / max(1, len(places) - 1)
        return (*self.first.spacing, step)

    @property
    def name(self) -> str:
        """What to call it in a table or message: nothing in it identifies a patient."""
        b = f" b {self.first.b:g}" if self.role == "DWI" and self.first.b is not None else ""
        return f"series {self.first.number} ({self.role or 'other'}{b}, {len(self.slices)} slices)"


@dataclass(frozen=True)
class Study:
    """One examination: the stacks of all its series."""

    uid: str
    patient: str
    date: str
    stacks: tuple[Stack, ...]


def find_studies(folder: Path, advance: Callable[[], object] = lambda: None) -> tuple[list[Study], Counter[str]]:
    """All studies of a tree of files, and the number of skipped files by reason.

    Args:
        folder: the tree; links to folders are not followed.
    """
    passed_over: Counter[str] = Counter()
    slices: dict[tuple[str, int | None], Slice] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            found = read_slices(file)
        except OSError:
            found = "unreadable"
        advance()
        if isinstance(found, str):
            passed_over[found] += 1
            continue
        for one in found:
            if slices.setdefault((one.instance, one.frame), one) is not one:
                passed_over["a copy of another file"] += 1
                break
    by_study = _grouped(slices.values(), attrgetter("study"))
    return [_study(list(members)) for members in by_study], passed_over


def positions_along_normal(slices: Iterable[Slice]) -> list[float]:
    """Where each slice lies along the normal of the first, in mm."""
    slices = list(slices)
    normal = normal_of(slices[0])
    return [float(normal @ one.position) for one in slices]


def normal_of(one: Slice) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The slice's normal."""
    return np.cross(one.orientation[:3], one.orientation[3:])


def _grouped(slices: Iterable[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    groups: dict[Hashable, list[Slice]] = {}
    for one in slices:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def _study(slices: list[Slice]) -> Study:
    first = slices[0]
    stacks = [stack for series in _grouped(slices, attrgetter("series")) for stack in _stacks(series)]
    stacks.sort(key=lambda stack: (stack.first.number, stack.first.series, stack.first.b or 0, stack.first.kind))
    return Study(first.study, first.patient, first.study_date, tuple(stacks))


def _stacks(series: list[Slice]) -> list[Stack]:
    """The stacks of one series; one with fewer positions than its sisters lacks slices."""
    groups = [part for group in _grouped(series, _make) for part in _without_doubles(group)]
    most = max(len(group) for group in groups)
    return [_stack(group, most) for group in groups]


def _make(one: Slice) -> Hashable:
    """What all slices of a volume have in common."""
    orientation = tuple(round(cosine, 3) + 0.0 for cosine in one.orientation)
    return one.b, one.kind, one.directional, orientation, one.shape, one.spacing, one.echo_ms


def _without_doubles(group: list[Slice]) -> list[list[Slice]]:
    """A group with one slice a position: separated by acquisition or temporal position, or equal and left out.

    Where neither helps, the group is returned as it is.
    """
    if _repeated(group) == 1:
        return [group]
    for key in (attrgetter("acquisition"), attrgetter("temporal_position")):
        parts = _grouped(group, key)
        if len(parts) > 1 and all(_repeated(part) == 1 for part in parts):
            return parts
    kept: list[Slice] = []
    for _, there in groupby(sorted(group, key=_place), key=_place):
        first, *others = there
        kept += [first, *(other for other in others if not _same_pixels(first, other))]
    return [kept]


def _place(one: Slice) -> int:
    return round(float(normal_of(one) @ one.position) / _SAME_PLACE_MM)


def _repeated(group: list[Slice]) -> int:
    """The largest number of slices at one position."""
    return max(Counter(map(_place, group)).values())


def _same_pixels(one: Slice, other: Slice) -> bool:
    if one.frame is not None or other.frame is not None or one.scaling != other.scaling:
        return False
    first, second = (pydicom.dcmread(each.file, force=True).get("PixelData") for each in (one, other))
    return bool(first == second)


def _stack(group: list[Slice], most: int) -> Stack:
    group.sort(key=lambda one: (_place(one), one.instance))
    role, reason = _role(group[0])
    return Stack(tuple(group), role, reason, _fault(group, most))


def _fault(ordered: list[Slice], most: int) -> str:
    repeated = _repeated(ordered)
    if repeated > 1:
        return f"has {repeated} different slices at one position (gradient directions, or two recordings in one?)"
    if len(ordered) < 2:
        return "has a single slice"
    gaps = np.diff(positions_along_normal(ordered))
    usual = float(np.median(gaps))
    shifts = [np.subtract(after.position, before.position) for before, after in pairwise(ordered)]
    normal = normal_of(ordered[0])
    if (sheared := max(float(np.linalg.norm(shift - (shift @ normal) * normal)) for shift in shifts)) > 0.1 * usual:
        return f"has slices that lie up to {sheared:.2f} mm beside each other"
    wide = [gap for gap in gaps if gap > (2 - 2 * GAP_TOLERANCE) * usual]
    if wide and all(abs(gap / usual - round(gap / usual)) < 2 * GAP_TOLERANCE for gap in wide):
        missing = sum(round(gap / usual) - 1 for gap in wide)
        return f"lacks {missing} slice{'s' if missing > 1 else ''}: gaps of {max(wide):.2f} mm among {usual:.2f} mm"
    if float(np.abs(gaps - usual).max()) > GAP_TOLERANCE * usual:
        return f"has uneven gaps, {gaps.min():.2f} to {gaps.max():.2f} mm between slices"
    if len(ordered) < most:
        return f"lacks {most - len(ordered)} of the {most} slices that its series has for other images"
    return ""


def _role(one: Slice) -> tuple[Role | None, str]:
    """What slices show, by their headers; SeriesDescription is the last resort."""
    kind = set(one.kind)
    if one.burnt_in:
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
    return _role_of_signal(one)


def _role_of_signal(one: Slice) -> tuple[Role | None, str]:
    is_diffusion = "DIFFUSION" in one.kind or "EP" in one.scanning
    if one.b is not None and (is_diffusion or not one.scanning):
        if one.directional and one.b > 0:
            return None, "is one gradient direction, no trace"
        return "DWI", f"diffusion with b {one.b:g} s/mm2"
    if is_diffusion:
        return None, "is echo-planar without a b-value"
    if one.echo_ms is not None and one.scanning:
        is_t2 = "SE" in one.scanning and one.echo_ms >= LOWEST_T2_ECHO_MS
        return ("T2W", f"spin echo, echo time {one.echo_ms:g} ms") if is_t2 else (None, "is not T2-weighted")
    if _T2_IN_TEXT.search(one.description):
        return "T2W", "T2W by SeriesDescription"
    return None, "is not recognised"
