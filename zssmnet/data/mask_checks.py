"""Check zonal masks for anatomical plausibility, by rules that 1,482 real masks pass; a gross error breaks one.

All of those masks are one model's. People draw otherwise, so what is found in theirs is a warning and never decides.
Labels: 0 background, 1 peripheral zone, 2 the rest of the gland.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.coverage import covered
from zssmnet.data.image_io import array_of
from zssmnet.data.orientation import in_axial_order
from zssmnet.data.zonal_mask import foreground_window, with_whole_labels, without_stray_parts, zone_warning
from zssmnet.errors import ImageError

GLAND_ML, PERIPHERAL_ML, REST_ML = (12.0, 300.0), (5.0, 60.0), (5.0, 240.0)
"""Volumes of prostates and their zones; 1,482 real masks have 5.5 to 54 and 6 to 228 ml."""
EXTENTS_MM = (32.0, 95.0), (25.0, 95.0), (25.0, 100.0)
"""Along left-right, back-front, height; the same masks have 34 to 86, 27 to 90, 27 to 97."""
LARGEST_SHARE_APART = 0.05
"""Of the gland's voxels, that may lie apart from its largest part."""
LARGEST_SHARE_OUTSIDE = 0.02
"""Of the gland's voxels, that may lie outside the image's field."""
_INFINITE = float("inf")
LIMITS: dict[str, tuple[float, float]] = {
    "its outermost mm on one side has {:.0%} of its largest plane: is a part of it missing?": (0.0, 0.5),
    "its top slice has {:.0%} of the largest slice: is the upper part missing?": (0.0, 0.9),
    "its bottom slice has {:.0%} of the largest slice: is the lower part missing?": (0.0, 0.65),
    "{:.0f} slices within it are empty": (0.0, 0.0),
    "from one slice to the next its area changes by {:.0%} of the largest": (0.0, 0.7),
    "a slice of it lies {:.1f} mm beside those around it": (0.0, 4.0),
    "it has holes of {:.1%} of its volume": (0.0, 0.01),
    "{:.1%} of it are specks or threads": (0.0, 0.02),
    "its height is {:.2f} of its width": (0.5, 1.55),
    "its width is {:.2f} of its depth": (0.7, 1.8),
    "it fills {:.0%} of the box around it": (0.28, 0.64),
    "one side of the peripheral zone has {:.2f} of the other's volume": (0.14, _INFINITE),
    "the middles of the zones lie {:.1f} mm apart from front to back": (2.0, _INFINITE),
    "the peripheral zone lies {:.1f} mm above the rest": (-_INFINITE, 8.0),
    "the peripheral zone's share of the lower third less that of the upper third is {:.2f}": (-0.45, 0.85),
}
"""Smallest and largest plausible value of each measure of the shape, which those masks keep, and how it is reported."""
Planes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MaskCheck:
    """What was found in a mask."""

    peripheral_ml: float  # volume of label 1
    rest_ml: float  # of label 2
    findings: tuple[str, ...]  # what is implausible, with the values; empty for a plausible mask


def check_mask(mask: sitk.Image, t2w: sitk.Image | None = None) -> MaskCheck:
    """Check a zonal mask.

    Args:
        mask: any labels, on any grid, in mm and LPS.
        t2w: the case's image; the gland has to lie in its field.
    """
    try:
        mask = in_axial_order(with_whole_labels(mask))
    except ImageError as error:
        return MaskCheck(0.0, 0.0, (str(error),))
    found = [*implausible(mask)]
    found += [odd for odd in (without_stray_parts(mask, "keep")[1], zone_warning(mask)) if odd]
    if t2w is not None:
        z, y, x = np.nonzero(array_of(mask))
        if (share := float((~covered(t2w, mask, x, y, z)).mean())) > LARGEST_SHARE_OUTSIDE:
            found.append(f"{share:.0%} of the gland lie outside the field of the T2W image")
    return MaskCheck(*zones_ml(mask), tuple(found))


def zones_ml(mask: sitk.Image) -> tuple[float, float]:
    """Volumes of the labels 1 and 2."""
    voxel_ml = float(np.prod(mask.GetSpacing())) / 1000
    return np.count_nonzero(array_of(mask) == 1) * voxel_ml, np.count_nonzero(array_of(mask) == 2) * voxel_ml


def implausible(mask: sitk.Image) -> Iterator[str]:
    """What is odd about volumes and shape of a mask with whole labels; axes in the order left, posterior, superior."""
    peripheral, rest = zones_ml(mask)
    for name, volume, (low, high) in (
        ("the gland", peripheral + rest, GLAND_ML),
        ("the peripheral zone (label 1)", peripheral, PERIPHERAL_ML),
        ("the rest of the gland (label 2)", rest, REST_ML),
    ):
        if not low <= volume <= high:
            yield f"{name} has {volume:.1f} ml; plausible are {low:g} to {high:g}"
    gland_ZYX = array_of(mask)[foreground_window(array_of(mask))] > 0
    extents = [size * step for size, step in zip(gland_ZYX.shape[::-1], mask.GetSpacing(), strict=True)]
    if not all(low <= extent <= high for extent, (low, high) in zip(extents, EXTENTS_MM, strict=True)):
        shown, limits = " x ".join(f"{one:.0f}" for one in extents), ", ".join(f"{a:g} to {b:g}" for a, b in EXTENTS_MM)
        yield f"the gland measures {shown} mm; plausible are {limits}"
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(gland_ZYX.astype(np.uint8)), True)
    sizes = np.bincount(array_of(parts).ravel())[1:]
    if (apart := 1 - float(sizes.max() / sizes.sum())) > LARGEST_SHARE_APART:
        yield f"it is not one gland: {apart:.0%} of it lie apart, in {len(sizes) - 1} pieces"
    yield from odd_shape(mask)


def odd_shape(mask: sitk.Image) -> Iterator[str]:
    """What no real mask shows, with the value and its limit.

    Args:
        mask: labels 0, 1, 2, not all 0; axes in the order left, posterior, superior.
    """
    zones_ZYX, spacing_ZYX = _at_one_mm(mask)
    for (words, (low, high)), value in zip(LIMITS.items(), _measures(zones_ZYX, spacing_ZYX), strict=True):
        if not low <= value <= high:
            limit = low if value < low else high
            yield f"{words.format(value)} (plausible: {'at least' if value < low else 'at most'} {limit:g})"


def _at_one_mm(mask: sitk.Image) -> tuple[Planes, tuple[float, float, float]]:
    """The box around the gland, nearest voxels at 1 mm in plane, and the spacing z, y, x."""
    labels_ZYX = array_of(mask)
    zones = labels_ZYX[foreground_window(labels_ZYX)].astype(np.uint8)
    width, depth, height = mask.GetSpacing()
    for axis, step in ((1, depth), (2, width)):
        if step < 1:
            places = np.rint(np.arange(0.5, zones.shape[axis] * step, 1.0) / step - 0.5).astype(int)
            zones = zones.take(places[places < zones.shape[axis]], axis)
    window = foreground_window(zones) if zones.any() else ()
    return zones[window], (height, max(1.0, depth), max(1.0, width))


def _measures(zones: Planes, spacing: tuple[float, float, float]) -> Iterator[float]:
    """The values of `LIMITS`, in their order."""
    gland = zones > 0
    count = max(int(gland.sum()), 1)
    areas, rows, columns = (gland.sum(axis=others).astype(float) for others in ((1, 2), (0, 2), (0, 1)))
    yield max(profile[end] / profile.max() for profile in (rows, columns) for end in (0, -1))
    yield areas[-1] / areas.max()
    yield areas[0] / areas.max()
    yield float((areas == 0).sum())
    yield max(np.abs(np.diff(areas))[1:-1], default=0.0) / areas.max()
    yield _shift(gland, areas, spacing)
    padded = np.pad(gland, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)
    plane = sitk.GetImageFromArray(padded.reshape(-1, padded.shape[2]))  # all slices beside each other
    opened = sitk.BinaryMorphologicalOpening(plane, (1, 1), sitk.sitkBox)
    yield int(sitk.GetArrayFromImage(sitk.BinaryFillhole(plane)).sum()) / count - 1
    yield 1 - int(sitk.GetArrayFromImage(opened).sum()) / count
    height, depth, width = (size * step for size, step in zip(zones.shape, spacing, strict=True))
    yield height / width
    yield width / depth
    yield count / zones.size
    peripheral, rest = zones == 1, zones == 2
    if not (peripheral.any() and rest.any()):
        yield from (1.0, 2.0, 0.0, 0.0)  # one zone alone is reported otherwise
        return
    half = zones.shape[2] // 2
    sides = peripheral[:, :, :half].sum(), peripheral[:, :, zones.shape[2] - half :].sum()
    yield min(sides) / max(*sides, 1)
    above, behind = (_middle(peripheral, axis) - _middle(rest, axis) for axis in (0, 1))
    yield abs(behind) * spacing[1]  # swapped zones are reported otherwise
    yield above * spacing[0]
    third = max(1, len(zones) // 3)
    low, high = (peripheral[part].sum() / max(gland[part].sum(), 1) for part in (slice(third), slice(-third, None)))
    yield low - high


def _shift(gland: npt.NDArray[np.bool_], areas: npt.NDArray[np.float64], spacing: tuple[float, float, float]) -> float:
    """How far in mm the middle of a slice lies from between those of its neighbours, where all three are large."""
    sums = [gland.sum(axis=3 - axis) @ np.arange(gland.shape[axis]) * spacing[axis] for axis in (1, 2)]
    middles = np.stack(sums) / np.maximum(areas, 1)
    shifts = np.linalg.norm(middles[:, 1:-1] - (middles[:, :-2] + middles[:, 2:]) / 2, axis=0)
    is_large = areas >= areas.max() / 2
    return float(max(shifts[is_large[:-2] & is_large[1:-1] & is_large[2:]], default=0.0))


def _middle(zone: npt.NDArray[np.bool_], axis: int) -> float:
    counts = zone.sum(axis=tuple(other for other in range(3) if other != axis))
    return float(counts @ np.arange(len(counts)) / counts.sum())
