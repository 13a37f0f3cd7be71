"""Check zonal masks for anatomical plausibility, by rules that every real mask passes.

Labels: 0 background, 1 peripheral zone, 2 the rest of the gland.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.coverage import covered
from zssmnet.data.image_io import array_of
from zssmnet.data.zonal_mask import with_whole_labels, without_stray_parts, zone_warning
from zssmnet.errors import ImageError

GLAND_ML, PERIPHERAL_ML, REST_ML = (8.0, 400.0), (2.0, 120.0), (2.0, 350.0)
"""Volumes of human prostates and their zones, from small healthy to very large ones."""
EXTENT_MM = (15.0, 120.0)
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
        mask = with_whole_labels(mask)
    except ImageError as error:
        return MaskCheck(0.0, 0.0, (str(error),))
    labels_ZYX = array_of(mask)
    voxel_ml = float(np.prod(mask.GetSpacing())) / 1000
    peripheral, rest = (float((labels_ZYX == label).sum()) * voxel_ml for label in (1, 2))
    found = [*_volumes(peripheral, rest), *_shape(mask, labels_ZYX > 0)]
    found += [odd for odd in (without_stray_parts(mask, "keep")[1], zone_warning(mask)) if odd]
    if t2w is not None:
        found += _field(mask, labels_ZYX > 0, t2w)
    return MaskCheck(peripheral, rest, tuple(found))


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
    if not all(EXTENT_MM[0] <= extent <= EXTENT_MM[1] for extent in extents):
        shown = " x ".join(f"{extent:.0f}" for extent in extents)
        yield f"the gland measures {shown} mm; plausible are {EXTENT_MM[0]:g} to {EXTENT_MM[1]:g}"
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(gland_ZYX.astype(np.uint8)), True)
    sizes = np.bincount(array_of(parts).ravel())[1:]
    if (apart := 1 - float(sizes.max() / sizes.sum())) > LARGEST_SHARE_APART:
        yield f"it is not one gland: {apart:.0%} of it lie apart, in {len(sizes) - 1} pieces"


def _field(mask: sitk.Image, gland_ZYX: npt.NDArray[np.bool_], t2w: sitk.Image) -> Iterator[str]:
    z, y, x = (axis.astype(np.float64) for axis in np.nonzero(gland_ZYX))
    if (share := float((~covered(t2w, mask, x, y, z)).mean())) > LARGEST_SHARE_OUTSIDE:
        yield f"{share:.0%} of the gland lie outside the field of the T2W image"
