"""Axes in one order: x to the patient's left, y to the back, z, along which slices lie, to the head."""

import numpy as np
import SimpleITK as sitk

from zssmnet.errors import ImageError

STRONGLY_OBLIQUE_DEGREES = 40.0
"""Axial prostate images are tilted by up to 28 degrees (PI-CAI)."""
_ORDER = "LPS"
_MARKEDLY_THICKER = 1.5


def in_axial_order(image: sitk.Image) -> sitk.Image:
    """The image with its axes permuted and flipped to left, posterior, superior; no value is changed.

    Slices of another plane (sagittal, coronal) stay as they are if they lie along the third axis.

    Raises:
        ImageError: they lie along another one.
    """
    ordered = image if _name(image) == _ORDER else sitk.DICOMOrient(image, _ORDER)
    if _slice_axis(ordered) in (None, 2):
        return ordered
    if _slice_axis(image) == 2:
        return image
    plane = ("sagittal", "coronal")[_slice_axis(ordered) or 0]
    raise ImageError(
        f"has slices of {max(image.GetSpacing()):g} mm along another axis than the third, and they are {plane}; "
        "axial slices are needed"
    )


def as_stored(image: sitk.Image, stored: sitk.Image) -> sitk.Image:
    """An image on the grid of `in_axial_order` of ``stored``, on the grid of ``stored`` itself."""
    ordered = image if in_axial_order(stored) is stored else sitk.DICOMOrient(image, _name(stored))
    ordered.CopyInformation(stored)
    return ordered


def tilt_degrees(image: sitk.Image) -> float:
    """The largest angle between an axis of the image and that of the patient which it should lie along."""
    cosines = np.diagonal(np.reshape(image.GetDirection(), (3, 3)))
    return float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))


def _name(image: sitk.Image) -> str:
    return str(sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()))


def _slice_axis(image: sitk.Image) -> int | None:
    """The axis whose steps are markedly larger than the others'."""
    spacing = image.GetSpacing()
    first, second = np.argsort(spacing)[::-1][:2]
    return int(first) if spacing[first] > _MARKEDLY_THICKER * spacing[second] else None
