"""The zonal mask: labels that are whole, parts that belong to no gland, zones in their place."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.image_io import array_of, image_like
from zssmnet.errors import ImageError

LABEL_TOLERANCE = 1e-3
"""Labels in floating point count as whole up to here."""
FAR_MM = 10.0
"""A part of the mask that is further away from its largest part lies astray."""
TINY_SHARE = 0.01
"""Parts with fewer voxels, compared with the largest one, are tiny."""

StrayParts = Literal["ignore", "keep", "refuse"]


def with_whole_labels(mask: sitk.Image) -> sitk.Image:
    """The mask, labels rounded that are whole but for 1e-3; ImageError if others than 0, 1, 2 are there, or 0 alone."""
    labels = array_of(mask)
    whole = np.rint(labels) if labels.dtype.kind == "f" else labels
    is_zone = (whole == 0) | (whole == 1) | (whole == 2)
    if whole is not labels:
        is_zone &= np.abs(whole - labels) <= LABEL_TOLERANCE
    if not is_zone.all():
        shown = ", ".join(str(label).removesuffix(".0") for label in np.unique(labels[~is_zone])[:5])
        raise ImageError(f"has the labels {shown}; only 0, 1 and 2 are zones")
    if not whole.any():
        raise ImageError("the mask has no foreground: no voxel is labelled 1 or 2")
    return mask if whole is labels or np.array_equal(whole, labels) else image_like(whole, mask)


def without_stray_parts(mask: sitk.Image, stray: StrayParts) -> tuple[sitk.Image, str | None]:
    """The mask without parts that lie more than 10 mm from the gland, which is its largest part.

    Args:
        stray: ``ignore`` removes them if they are tiny, ``keep`` never, ``refuse`` takes no such mask.

    Returns:
        The mask, and a warning if there are such parts.

    Raises:
        ImageError: there are, and ``stray`` is ``refuse``.
    """
    foreground = array_of(mask) != 0
    window = foreground_window(foreground)  # parts, their sizes and the distances between them are the same within it
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(foreground[window].astype(np.uint8)), True)
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(parts)
    sizes = {label: statistics.GetNumberOfPixels(label) for label in statistics.GetLabels()}
    gland = max(sizes, key=lambda label: sizes[label])
    boxes = {label: np.reshape(statistics.GetBoundingBox(label), (2, 3)) for label in sizes}
    distances = {label: _distance_mm(box, boxes[gland], mask.GetSpacing()) for label, box in boxes.items()}
    far = [label for label, distance in distances.items() if distance > FAR_MM]
    if not far:
        return mask, None
    count, furthest = sum(sizes[label] for label in far), max(distances.values())
    found = f"{count} voxels of the mask lie up to {furthest:.0f} mm away from the gland"
    if stray == "refuse":
        raise ImageError(found)
    if stray == "keep" or count > TINY_SHARE * sizes[gland]:
        return mask, f"{found} and belong to the region of interest: is the mask right?"
    array = sitk.GetArrayFromImage(mask)
    array[window][np.isin(array_of(parts), far)] = 0
    return image_like(array, mask), f"{found} and are ignored"


def _distance_mm(box: npt.NDArray[Any], other: npt.NDArray[Any], spacing: tuple[float, ...]) -> float:
    """Between two boxes, given as start and size in voxels."""
    gap = np.maximum(box[0] - (other[0] + other[1]), other[0] - (box[0] + box[1])) + 1
    return float(np.linalg.norm(np.maximum(gap, 0) * spacing))


def zone_warning(mask: sitk.Image) -> str | None:
    """What is odd about the zones: one of them missing, or both swapped."""
    z, y, x = foreground_window(array_of(mask))
    zones = sitk.LabelShapeStatisticsImageFilter()
    zones.ComputePerimeterOff()
    zones.Execute(sitk.Cast(mask[x, y, z], sitk.sitkUInt8))
    if len(zones.GetLabels()) == 1:
        present = zones.GetLabels()[0]
        return f"the mask has only the label {present}; peripheral zone is 1, the rest of the gland 2"
    if zones.GetCentroid(1)[1] <= zones.GetCentroid(2)[1]:  # y is posterior
        return "label 1 does not lie behind label 2: are the zones swapped? (1 is the peripheral zone)"
    return None


def foreground_window(mask_ZYX: npt.NDArray[Any]) -> tuple[slice, slice, slice]:
    """The smallest box with all voxels that are not 0, of which there are some."""
    hits = [np.flatnonzero(mask_ZYX.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (slice(int(hit[0]), int(hit[-1]) + 1) for hit in hits)
    return z, y, x
