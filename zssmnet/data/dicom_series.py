"""DICOM files grouped into stacks, the slices that make one volume, whose roles are then recognised.

A series may hold several stacks, one for each b-value as a rule. Names of files and folders mean nothing.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from operator import attrgetter, itemgetter
from pathlib import Path

import numpy as np
import pydicom

from zssmnet.data.dicom_headers import NOT_MR, Role, Slice, read_slices, role_of

GAP_TOLERANCE = 0.05
"""Largest deviation of a gap between slices from the median gap, as a share of it."""
TOLERANCE_MM = 0.1
"""Largest difference in place, anywhere in a volume, between slices or grids that count as equal."""
_ECHO_TOLERANCE_MS, _B_TOLERANCE = 0.5, 1.0
_ALIKE = 0.02
"""Difference of orientation and spacing up to which stacks of a series are expected to have the same positions."""


@dataclass(frozen=True)
class Stack:
    """Slices of one volume, ordered from feet to head along their normal."""

    slices: tuple[Slice, ...]  # one a position, unless there is a fault
    role: Role | None  # what it can be used as
    reason: str  # what it was recognised by, or why it has no role
    fault: str  # why it makes no volume, as a missing slice; empty if it does

    @property
    def first(self) -> Slice:
        """The slice nearest the feet."""
        return self.slices[0]

    @property
    def b(self) -> float:
        """B-value in s/mm2; 0 where none is known."""
        return self.first.b or 0.0

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing x, y, z."""
        return *self.first.spacing, float(np.ptp(_places_mm(self.slices))) / max(1, len(self.slices) - 1)

    @property
    def kind(self) -> str:
        """The values of ImageType that all slices have, and whether it is a trace or a direction."""
        shared = [word for word in self.first.kind if all(word in one.kind for one in self.slices)]
        return " ".join([*dict.fromkeys(shared), self.first.diffusion.upper() if self.b else ""]).strip()

    @property
    def made(self) -> tuple[str, int, int, str]:
        """When it was recorded, sortable: later ones replace earlier ones."""
        first = self.first
        return first.taken, first.number, first.acquisition, min(one.acquired for one in self.slices)

    @property
    def name(self) -> str:
        """What to call it in a table or message: nothing in it identifies a patient."""
        b = f" b {self.first.b:g}" if self.role == "DWI" and self.first.b is not None else ""
        return f"series {self.first.number} ({self.role or 'other'}{b}, {len(self.slices)} slices)"


@dataclass(frozen=True)
class Study:
    """One examination: the stacks of all its series; a note where its StudyInstanceUID is missing or shared.

    ``fault`` tells why it makes no case: images of two patients under one PatientID.
    """

    uid: str
    patient: str
    date: str
    note: str
    stacks: tuple[Stack, ...]
    fault: str = ""


def find_studies(folder: Path, advance: Callable[[], object] = lambda: None) -> tuple[list[Study], Counter[str]]:
    """All studies of a tree of files, and the number of skipped files by reason.

    Args:
        folder: the tree; links to folders are not followed.
    """
    passed_over: Counter[str] = Counter()
    slices: list[Slice] = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found = read_slices(file)
        advance()
        slices += found if isinstance(found, list) else []
        passed_over.update([found] if isinstance(found, str) else {one.unusable for one in found if one.unusable})
    groups = _grouped(slices, lambda one: (one.person, one.study or one.study_date))
    with_images = [members for members in groups if any(one.unusable not in NOT_MR for one in members)]
    patients = Counter(members[0].study for members in with_images)
    studies = [_study(members, patients[members[0].study] > 1) for members in with_images]
    used = sum(len(stack.slices) for study in studies for stack in study.stacks)
    passed_over += Counter({"a copy of another file": sum(map(len, with_images)) - used})
    return studies, passed_over


def _places_mm(slices: Sequence[Slice]) -> list[float]:
    """Where each slice lies along the normal of the first."""
    return [float(slices[0].normal @ one.position) for one in slices]


def _grouped(slices: Iterable[Slice], key: Callable[[Slice], Hashable]) -> list[list[Slice]]:
    groups: dict[Hashable, list[Slice]] = {}
    for one in slices:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def _study(slices: list[Slice], is_shared: bool) -> Study:
    first = slices[0]
    note = "shares its StudyInstanceUID with another patient, and is kept apart" if is_shared else ""
    note = note if first.study else "has no StudyInstanceUID (the images of one patient and day are one study)"
    uid = (first.study or first.study_date) + (first.person if note and not first.patient else "")
    diffusion = list({(one.series, one.echo_ms): one for one in slices if one.b and not one.unusable}.values())
    stacks = [stack for series in _grouped(slices, attrgetter("series")) for stack in _stacks(series, diffusion)]
    stacks.sort(key=lambda one: (one.first.number, one.first.series, one.b, one.kind, one.made))
    return Study(uid, first.patient, first.study_date, note, tuple(stacks), _two_patients(slices))


def _two_patients(slices: list[Slice]) -> str:
    """A fault if there are two dates of birth, or names without a common word; where they are removed, none."""
    dates = {one.birth_date for one in slices} - {""}
    names = [set(re.findall(r"[^\W_]+", name.casefold())) for name in {one.name for one in slices} - {""}]
    if len(dates) < 2 and not any(one.isdisjoint(other) for one, other in combinations(names, 2)):
        return ""
    return "has two names or dates of birth under one PatientID (0010,0020): import each patient by itself"


def _stacks(series: list[Slice], diffusion: list[Slice]) -> Iterator[Stack]:
    """The stacks of one series; one that lacks positions which its sisters of one geometry have lacks slices."""
    usable = [one for one in series if not one.unusable]
    unusable = _grouped((one for one in series if one.unusable), lambda one: (one.unusable, one.content))
    for group in unusable:
        yield Stack(tuple(group), None, f"is {group[0].unusable}", f"is {group[0].unusable}")
    groups: list[list[Slice]] = []
    for one in usable:
        if (home := next((group for group in groups if _is_of(one, group[0])), None)) is None:
            groups.append(home := [])
        home.append(one)
    for group in groups:
        first = group[0]
        sisters = [one for one in usable if _turned_or_scaled(one, first) < _ALIKE]
        most = len(_by_place([one for one in sisters if one.frame_of_reference == first.frame_of_reference]))
        beside = any(one.series == first.series or _is_of_one_protocol(one, first) for one in diffusion)
        lost = {bad[0].unusable for bad in unusable if bad[0].content == first.content} - NOT_MR
        for part in _volumes(group):
            fault = _fault(part, most) or "".join(f"lacks slices, which are {why}" for why in sorted(lost)[:1])
            yield Stack(tuple(part), *role_of(part[0], beside), fault)


def _is_of(one: Slice, other: Slice) -> bool:
    """Whether two slices may belong to one volume."""
    same_b = abs((one.b or 0) - (other.b or 0)) <= _B_TOLERANCE
    return one.content == other.content and same_b and _is_of_one_protocol(one, other)


def _is_of_one_protocol(one: Slice, other: Slice) -> bool:
    same_echo = abs((one.echo_ms or 0) - (other.echo_ms or 0)) <= _ECHO_TOLERANCE_MS
    return same_echo and one.frame_of_reference == other.frame_of_reference and same_plane(one, other)


def same_plane(one: Slice, other: Slice) -> bool:
    """Whether two slices have one orientation, spacing and shape, but for differences that no voxel's place shows."""
    extent_mm = max(n * step for n, step in zip(one.shape, one.spacing, strict=True))
    return _turned_or_scaled(one, other) * extent_mm < TOLERANCE_MM


def _turned_or_scaled(one: Slice, other: Slice) -> float:
    """The difference between orientations and spacings as a share of the extent; infinite for another shape."""
    turned = max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True))
    scaled = max(abs(a / b - 1) for a, b in zip(one.spacing, other.spacing, strict=True))
    return max(turned, scaled) if one.shape == other.shape else np.inf


def _by_place(group: list[Slice]) -> list[list[Slice]]:
    """The slices at each position, from feet to head."""
    places: list[list[Slice]] = []
    start = -np.inf
    for place, one in sorted(zip(_places_mm(group), group, strict=True), key=itemgetter(0)):
        if place - start > TOLERANCE_MM:
            places.append([])
            start = place
        places[-1].append(one)
    return places


def _volumes(group: list[Slice]) -> list[list[Slice]]:
    """A group with one slice a position: copies left out, repeats distinguished by what was recorded of them.

    Where nothing tells them apart, the group is returned as it is.
    """
    places = [_without_copies(there) for there in _by_place(group)]
    left = [one for there in places for one in there]
    most = max(map(len, places))
    if most == 1:
        return [left]
    orders = (attrgetter("acquisition"), attrgetter("temporal_position"), attrgetter("acquired"))
    for order in orders if len(left) == most * len(places) else ():
        volumes = [list(volume) for volume in zip(*(sorted(there, key=order) for there in places), strict=True)]
        if all(max(map(order, one)) < min(map(order, after)) for one, after in pairwise(volumes)):
            return volumes
    for key in (*orders[:2], attrgetter("kind"), attrgetter("acquisition", "temporal_position", "kind")):
        parts = _grouped(left, key)
        if all(len(_by_place(part)) == len(part) for part in parts):
            return parts
    return [left]


def _without_copies(there: list[Slice]) -> list[Slice]:
    """Slices at one position, those left out that equal another of the same acquisition in their pixels."""
    if len(there) == 1 or (there[0].b and there[0].diffusion == "direction"):
        return there
    made = attrgetter("acquisition", "temporal_position", "acquired", "kind", "scaling")
    kept: list[Slice] = []
    for group in _grouped(there, made):
        kept += group if len(group) == 1 else {(_digest(one.file), one.frame): one for one in group}.values()
    return kept


@lru_cache(maxsize=1024)
def _digest(file: Path) -> bytes:
    data = pydicom.dcmread(file, force=True, specific_tags=["PixelData"])
    return hashlib.sha256(data.get("PixelData") or str(file).encode()).digest()


def same_pixels(one: Stack, other: Stack) -> bool:
    """Whether two stacks are copies of each other."""
    ours, theirs = ([(_digest(part.file), part.frame, part.scaling) for part in stack.slices] for stack in (one, other))
    return ours == theirs


def _fault(ordered: list[Slice], most: int) -> str:
    repeated = max(map(len, _by_place(ordered)))
    if repeated > 1:
        return f"has {repeated} different slices at one position (gradient directions, or two recordings in one?)"
    if len(ordered) < 2:
        return "has a single slice"
    gaps = np.diff(_places_mm(ordered))
    usual = float(np.median(gaps))
    shifts = np.diff([one.position for one in ordered], axis=0)
    beside = shifts - np.outer(shifts @ ordered[0].normal, ordered[0].normal)
    if (sheared := float(np.linalg.norm(beside, axis=1).max())) > 0.1 * usual:
        return f"has slices that lie up to {sheared:.2f} mm beside each other"
    wide = gaps[gaps > (2 - 2 * GAP_TOLERANCE) * usual]
    counts = np.rint(wide / usual)
    if len(wide) and (np.abs(wide / usual - counts) < 2 * GAP_TOLERANCE).all():
        missing = int(counts.sum()) - len(wide)
        return f"lacks {missing} slice{'s' if missing > 1 else ''}: gaps of {max(wide):.2f} mm among {usual:.2f} mm"
    if np.abs(gaps - usual).max() > GAP_TOLERANCE * usual:
        return f"has uneven gaps, {gaps.min():.2f} to {gaps.max():.2f} mm between slices"
    if len(ordered) < most:
        return f"lacks {most - len(ordered)} of the {most} slices that its series has for other images"
    return ""
