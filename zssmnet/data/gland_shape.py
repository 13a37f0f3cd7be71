"""Shape of a gland and its zones, against limits that 1,482 real masks keep; a gross error of a mask breaks one.

All of those masks are one model's. People draw otherwise, so what is found is a warning and never decides.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.image_io import array_of

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
"""Smallest and largest plausible value of each measure, and how it is reported."""

Planes = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


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
    z, y, x = (np.flatnonzero((labels_ZYX > 0).any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    zones = labels_ZYX[z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1].astype(np.uint8)
    width, depth, height = mask.GetSpacing()
    for axis, step in ((1, depth), (2, width)):
        if step < 1:
            places = np.rint(np.arange(0.5, zones.shape[axis] * step, 1.0) / step - 0.5).astype(int)
            zones = zones.take(places[places < zones.shape[axis]], axis)
    filled = np.nonzero(zones)
    box = tuple(slice(int(place.min()), int(place.max()) + 1) for place in filled) if len(filled[0]) else ()
    return zones[box], (height, max(1.0, depth), max(1.0, width))


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
    plane = _beside_each_other(gland)
    yield _voxels(sitk.BinaryFillhole(plane)) / count - 1
    yield 1 - _voxels(sitk.BinaryMorphologicalOpening(plane, (1, 1), sitk.sitkBox)) / count
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


def _shift(gland: npt.NDArray[np.bool_], areas: Doubles, spacing: tuple[float, float, float]) -> float:
    """How far in mm the middle of a slice lies from between those of its neighbours, where all three are large."""
    sums = [gland.sum(axis=3 - axis) @ np.arange(gland.shape[axis]) * spacing[axis] for axis in (1, 2)]
    middles = np.stack(sums) / np.maximum(areas, 1)
    shifts = np.linalg.norm(middles[:, 1:-1] - (middles[:, :-2] + middles[:, 2:]) / 2, axis=0)
    is_large = areas >= areas.max() / 2
    return float(max(shifts[is_large[:-2] & is_large[1:-1] & is_large[2:]], default=0.0))


def _middle(zone: npt.NDArray[np.bool_], axis: int) -> float:
    counts = zone.sum(axis=tuple(other for other in range(3) if other != axis))
    return float(counts @ np.arange(len(counts)) / counts.sum())


def _beside_each_other(gland: npt.NDArray[np.bool_]) -> sitk.Image:
    """All slices in one plane, each with a border of background."""
    padded = np.pad(gland, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)
    return sitk.GetImageFromArray(padded.reshape(-1, padded.shape[2]))


def _voxels(image: sitk.Image) -> int:
    return int(array_of(image).sum())
