"""Check zonal masks for anatomical plausibility, by rules that every real mask passes.

Labels: 0 background, 1 peripheral zone, 2 the rest of the gland.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.coverage import covered
from zssmnet.data.gland_shape import odd_shape
from zssmnet.data.image_io import array_of
from zssmnet.data.orientation import in_axial_order
from zssmnet.data.zonal_mask import with_whole_labels, without_stray_parts, zone_warning
from zssmnet.errors import ImageError

GLAND_ML, PERIPHERAL_ML, REST_ML = (12.0, 300.0), (5.0, 60.0), (5.0, 240.0)
"""Volumes of prostates and their zones; 1,482 real masks have 5.5 to 54 and 6 to 228 ml."""
EXTENTS_MM = (32.0, 95.0), (25.0, 95.0), (25.0, 100.0)
"""Along left-right, back-front, height; the same masks have 34 to 86, 27 to 90, 27 to 97."""
LARGEST_SHARE_APART = 0.05
"""Of the gland's voxels, that may lie apart from its largest part."""
LARGEST_SHARE_OUTSIDE = 0.02
"""Of the gland's voxels, that may lie outside the image's field."""


@dataclass(frozen=True)
class MaskCheck:
    """What was found in a mask.

    Attributes:
        peripheral_ml, rest_ml: volumes of the labels 1 and 2.
        findings: what is implausible, with the values; empty for a plausible mask.
    """

    peripheral_ml: float
    rest_ml: float
    findings: tuple[str, ...]


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
    labels_ZYX = array_of(mask)
    peripheral, rest = zones_ml(mask)
    found = [*implausible(mask)]
    found += [odd for odd in (without_stray_parts(mask, "keep")[1], zone_warning(mask)) if odd]
    if t2w is not None:
        found += _field(mask, labels_ZYX > 0, t2w)
    return MaskCheck(peripheral, rest, tuple(found))


def zones_ml(mask: sitk.Image) -> tuple[float, float]:
    """Volumes of the labels 1 and 2."""
    voxel_ml = float(np.prod(mask.GetSpacing())) / 1000
    return np.count_nonzero(array_of(mask) == 1) * voxel_ml, np.count_nonzero(array_of(mask) == 2) * voxel_ml


def implausible(mask: sitk.Image) -> Iterator[str]:
    """What is odd about volumes and shape of a mask with whole labels; axes in the order left, posterior, superior."""
    yield from _volumes(*zones_ml(mask))
    yield from _shape(mask, array_of(mask) > 0)
    yield from odd_shape(mask)


def _volumes(peripheral: float, rest: float) -> Iterator[str]:
    for name, volume, (low, high) in (
        ("the gland", peripheral + rest, GLAND_ML),
        ("the peripheral zone (label 1)", peripheral, PERIPHERAL_ML),
        ("the rest of the gland (label 2)", rest, REST_ML),
    ):
        if not low <= volume <= high:
            yield f"{name} has {volume:.1f} ml; plausible are {low:g} to {high:g}"


def _shape(mask: sitk.Image, gland_ZYX: npt.NDArray[np.bool_]) -> Iterator[str]:
    places = np.nonzero(gland_ZYX)[::-1]
    extents = [float(np.ptp(one) + 1) * step for one, step in zip(places, mask.GetSpacing(), strict=True)]
    if not all(low <= extent <= high for extent, (low, high) in zip(extents, EXTENTS_MM, strict=True)):
        shown, limits = " x ".join(f"{one:.0f}" for one in extents), ", ".join(f"{a:g} to {b:g}" for a, b in EXTENTS_MM)
        yield f"the gland measures {shown} mm; plausible are {limits}"
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(gland_ZYX.astype(np.uint8)), True)
    sizes = np.bincount(array_of(parts).ravel())[1:]
    if (apart := 1 - float(sizes.max() / sizes.sum())) > LARGEST_SHARE_APART:
        yield f"it is not one gland: {apart:.0%} of it lie apart, in {len(sizes) - 1} pieces"


def _field(mask: sitk.Image, gland_ZYX: npt.NDArray[np.bool_], t2w: sitk.Image) -> Iterator[str]:
    z, y, x = (axis.astype(np.float64) for axis in np.nonzero(gland_ZYX))
    if (share := float((~covered(t2w, mask, x, y, z)).mean())) > LARGEST_SHARE_OUTSIDE:
        yield f"{share:.0%} of the gland lie outside the field of the T2W image"
