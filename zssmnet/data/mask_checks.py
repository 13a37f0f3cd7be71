"""Is a zonal mask that of a prostate? Rules that every real mask passes, for masks that a model has drawn.

Labels: 0 background, 1 peripheral zone, 2 the rest of the gland.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.examination import array_of

GLAND_ML, PERIPHERAL_ML, TRANSITION_ML = (8.0, 400.0), (2.0, 120.0), (2.0, 350.0)
"""Volumes of human prostates and their zones, from small healthy to very large ones."""
SMALLEST_EXTENT_MM, LARGEST_EXTENT_MM = 15.0, 120.0
LARGEST_STRAY_SHARE = 0.05
"""Of the gland's voxels, that may lie apart from its largest component."""
LARGEST_SHARE_OUTSIDE = 0.02
"""Of the gland's voxels, that may lie outside the image's field."""


@dataclass(frozen=True)
class MaskCheck:
    """What was found in a mask.

    Attributes:
        gland_ml, peripheral_ml, transition_ml: volumes.
        findings: what no prostate has, in words with the values; empty for a plausible mask.
    """

    gland_ml: float
    peripheral_ml: float
    transition_ml: float
    findings: tuple[str, ...]


def check_mask(mask: sitk.Image, image: sitk.Image | None = None) -> MaskCheck:
    """Check a zonal mask.

    Args:
        mask: labels 0, 1, 2 on any grid, in mm and LPS.
        image: T2W of the case; the gland has to lie in its field.
    """
    labels_ZYX = array_of(mask)
    voxel_ml = float(np.prod(mask.GetSpacing())) / 1000
    peripheral, transition = (float((labels_ZYX == label).sum()) * voxel_ml for label in (1, 2))
    found = [f"has the labels {others}, not only 0, 1 and 2"] if (others := _other_labels(labels_ZYX)) else []
    if peripheral + transition:
        found += _volumes(peripheral, transition)
        found += _shape(mask, labels_ZYX > 0)
        found += _zones(mask, labels_ZYX) if peripheral and transition else []
        found += _field(mask, labels_ZYX > 0, image) if image else []
    else:
        found.append("has no foreground")
    return MaskCheck(peripheral + transition, peripheral, transition, tuple(found))


def _other_labels(labels: npt.NDArray[np.generic]) -> str:
    return ", ".join(f"{label:g}" for label in np.unique(labels).tolist() if label not in (0, 1, 2))


def _volumes(peripheral: float, transition: float) -> Iterator[str]:
    for name, volume, (low, high) in (
        ("gland", peripheral + transition, GLAND_ML),
        ("peripheral zone (label 1)", peripheral, PERIPHERAL_ML),
        ("rest of the gland (label 2)", transition, TRANSITION_ML),
    ):
        if not low <= volume <= high:
            yield f"its {name} has {volume:.1f} ml; human ones have {low:g} to {high:g}"


def _shape(mask: sitk.Image, gland_ZYX: npt.NDArray[np.bool_]) -> Iterator[str]:
    extents = [
        (int(hit[-1]) - int(hit[0]) + 1) * step
        for axis, step in zip((2, 1, 0), mask.GetSpacing(), strict=True)
        if len(hit := np.flatnonzero(gland_ZYX.any(axis=tuple({0, 1, 2} - {axis}))))
    ]
    if not all(SMALLEST_EXTENT_MM <= extent <= LARGEST_EXTENT_MM for extent in extents):
        shown = " x ".join(f"{extent:.0f}" for extent in extents)
        yield f"its gland measures {shown} mm; human ones have {SMALLEST_EXTENT_MM:g} to {LARGEST_EXTENT_MM:g}"
    components = sitk.ConnectedComponent(sitk.GetImageFromArray(gland_ZYX.astype(np.uint8)), True)
    sizes = np.bincount(array_of(components).ravel())[1:]
    if (stray := 1 - float(sizes.max() / sizes.sum())) > LARGEST_STRAY_SHARE:
        yield f"is not one gland: {stray:.0%} of it lie apart, in {len(sizes) - 1} pieces"


def _zones(mask: sitk.Image, labels_ZYX: npt.NDArray[np.generic]) -> Iterator[str]:
    peripheral, transition = (_posterior_mm(mask, labels_ZYX == label) for label in (1, 2))
    if peripheral <= transition:
        yield (
            f"its label 1 lies {transition - peripheral:.1f} mm in front of label 2: are the zones swapped? "
            "1 is the peripheral zone, behind the rest"
        )


def _posterior_mm(mask: sitk.Image, inside_ZYX: npt.NDArray[np.bool_]) -> float:
    z, y, x = (float(places.mean()) for places in np.nonzero(inside_ZYX))
    return float(mask.TransformContinuousIndexToPhysicalPoint((x, y, z))[1])


def _field(mask: sitk.Image, gland_ZYX: npt.NDArray[np.bool_], image: sitk.Image) -> Iterator[str]:
    """Whether the gland lies in the image's field, half a voxel beyond the outermost centres included."""
    places = np.argwhere(gland_ZYX)[:, ::-1]
    to_mm = np.reshape(mask.GetDirection(), (3, 3)) * mask.GetSpacing()
    points_mm = places @ to_mm.T + mask.GetOrigin()
    to_voxels = np.linalg.inv(np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing())
    indices = (points_mm - image.GetOrigin()) @ to_voxels.T
    is_outside = ((indices < -0.5) | (indices > np.subtract(image.GetSize(), 0.5))).any(axis=1)
    if (share := float(is_outside.mean())) > LARGEST_SHARE_OUTSIDE:
        yield f"{share:.0%} of its gland lie outside the T2W image's field"
