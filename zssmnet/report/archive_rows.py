"""Rows of an archive's page, and oddities of a case among the others."""

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel

from zssmnet.data.archive import CHANNELS
from zssmnet.data.image_io import array_of, read_image
from zssmnet.preparation.prepare import PreparedCase
from zssmnet.report.palette import Array
from zssmnet.report.thumbnails import Base64, Outlines, jpeg, outlines
from zssmnet.storage import Storage

BINS = 24
RANGE = 4.0
"""Medians of the gland that a histogram reaches up to."""
_FAR = 4.0
"""Median absolute deviations (scaled to standard deviations) from the archive's median that count as odd."""
_SMALLEST_DEVIATION = 0.05
"""Of the median: where nearly all cases agree, no smaller deviation is odd."""
_FEWEST = 10
"""Cases that an archive needs to be compared with."""
_COMMON_SHARE, _BEYOND = 0.05, 1.25
"""Share of the cases that makes a spacing common, and by how much others lie outside of what is common."""


class CaseRow(BaseModel, frozen=True):
    """Row of a case on the page.

    Attributes:
        case_id, subset, spacing_before, size_before, warnings: as in the prepared case's record.
        source: identity of that record.
        picture: JPEG of T2W, ADC and DWI side by side, base64.
        outlines: of the zones in one thumbnail.
        peripheral_ml, transition_ml: volumes of the zones.
        medians: of the images in the gland.
        histograms: of each image, shares of the voxels around the gland, from 0 to `RANGE` medians of the gland.
    """

    case_id: str
    subset: int
    source: str
    size_before: tuple[int, int, int]
    spacing_before: tuple[float, float, float]
    warnings: tuple[str, ...]
    picture: Base64
    outlines: Outlines
    peripheral_ml: float
    transition_ml: float
    medians: tuple[float, float, float]
    histograms: tuple[tuple[float, ...], ...]

    @property
    def gland_ml(self) -> float:
        """Volume of the gland."""
        return self.peripheral_ml + self.transition_ml


def draw_row(record: PreparedCase, data: Storage) -> CaseRow:
    """The row of one prepared case; UnreadableFileError if a file of it cannot be read."""
    images = [read_image(data.local_version(one.key, one.size, one.version)) for one in record.outputs]
    *arrays, zones_ZYX = map(array_of, images)
    gland_ZYX = zones_ZYX > 0
    voxel_ml = math.prod(images[-1].GetSpacing()) / 1000
    t2w, adc, dwi = (float(np.median(array[gland_ZYX])) for array in arrays)
    middle = int(np.median(np.flatnonzero(gland_ZYX.any(axis=(1, 2)))))
    return CaseRow(
        case_id=record.case_id,
        subset=record.subset,
        source=record.identity(),
        size_before=record.size_before,
        spacing_before=record.spacing_before,
        warnings=record.warnings,
        picture=jpeg([array[middle] for array in arrays]),
        outlines=outlines(zones_ZYX[middle]),
        peripheral_ml=round(float((zones_ZYX == 1).sum()) * voxel_ml, 2),
        transition_ml=round(float((zones_ZYX == 2).sum()) * voxel_ml, 2),
        medians=(t2w, adc, dwi),
        histograms=tuple(_histogram(array, median) for array, median in zip(arrays, (t2w, adc, dwi), strict=True)),
    )


def _histogram(image_ZYX: Array, median: float) -> tuple[float, ...]:
    scale = BINS / RANGE / (median if median > 0 else 1.0)
    bins = np.clip(image_ZYX.ravel() * scale, 0, BINS - 1).astype(np.int64)
    return tuple(round(float(count) / image_ZYX.size, 4) for count in np.bincount(bins, minlength=BINS))


def usual_histograms(rows: Sequence[CaseRow]) -> Array:
    """The archive's median of each share, axes (image, bin)."""
    return np.median([row.histograms for row in rows], axis=0) if rows else np.zeros((len(CHANNELS), BINS))


def oddities(rows: Sequence[CaseRow]) -> list[list[str]]:
    """Oddities of each row: its warnings, and, in a large enough archive, values far from the others'."""
    found = [list(row.warnings) for row in rows]
    if len(rows) < _FEWEST:
        return found
    differences = np.abs(np.array([row.histograms for row in rows]) - usual_histograms(rows)).sum(axis=2) / 2
    slices, pixels = (np.array([row.spacing_before[axis] for row in rows]) for axis in (2, 0))
    glands, adcs = np.array([row.gland_ml for row in rows]), np.array([row.medians[1] for row in rows])
    measures = [
        ("gland of {:.0f} ml", glands, _far(glands)),
        ("ADC's median in the gland is {:.4g}", adcs, _far(adcs)),
        ("slices {:.2g} mm apart", slices, _uncommon(slices)),
        ("pixels of {:.2g} mm", pixels, _uncommon(pixels)),
    ]
    for name, values in zip(CHANNELS, differences.T, strict=True):
        measures.append((name + "'s histogram differs in {:.0%} of the voxels", values, _far(values)))
    for words, values, is_odd in measures:
        for number in np.flatnonzero(is_odd):
            found[number].append(words.format(values[number]))
    return found


def _far(values: Array) -> Array:
    """Mask of the values far from the median."""
    usual = np.median(values)
    deviations = np.abs(values - usual)
    is_far: Array = deviations > _FAR * max(1.4826 * np.median(deviations), _SMALLEST_DEVIATION * abs(usual), 1e-9)
    return is_far


def _uncommon(values: Array) -> Array:
    """Mask of the values outside the range of common ones."""
    different, counts = np.unique(values.round(2), return_counts=True)
    is_common = counts > max(1, _COMMON_SHARE * len(values))
    common = different[is_common] if is_common.any() else different
    is_outside: Array = (values < common.min() / _BEYOND) | (values > common.max() * _BEYOND)
    return is_outside
