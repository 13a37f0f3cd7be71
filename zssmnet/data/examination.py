"""One case's files, read and checked. Whatever is wrong with a file ends in a CaseError that names it."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.archive import CHANNELS, Case
from zssmnet.data.image_io import read_image
from zssmnet.errors import CaseError, UnreadableFileError
from zssmnet.storage import Storage

GRID_TOLERANCE_MM = 1e-3
SMALLEST_SPLINE_SIZE = 4
"""Voxels an axis needs for a B-spline of order 3."""
ZONES = (0, 1, 2)
"""Labels of a zonal mask: background, peripheral zone, the rest of the gland."""


@dataclass(frozen=True)
class Examination:
    """The three images and the zonal mask of a case, all on T2W's grid.

    Attributes:
        t2w, adc, dwi: images of any scalar pixel type.
        mask: labels 0 background, 1 peripheral zone, 2 the rest of the gland.
        files: the four files' addresses, in this order, for messages.
    """

    t2w: sitk.Image
    adc: sitk.Image
    dwi: sitk.Image
    mask: sitk.Image
    files: tuple[str, str, str, str]

    @property
    def images(self) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
        """T2W, ADC, DWI."""
        return self.t2w, self.adc, self.dwi


def read_examination(case: Case, images: Storage, masks: Storage) -> Examination:
    """Read and check a case. PI-CAI's ADC and DWI are brought onto T2W's grid; all four then lie exactly on it.

    Raises:
        CaseError: a file is missing, unreadable or not a 3-D image, grids differ by more than 1e-3 mm, the mask has
            no foreground or other labels than 0, 1, 2, values are not finite, or an image is constant.
    """
    sources = [(images, key) for key in case.images] + [(masks, case.mask)]
    addresses = [storage.where(key) for storage, key in sources]
    volumes = [_read(case.id, storage, key) for storage, key in sources]
    for address, volume, name in zip(addresses, volumes, CHANNELS, strict=False):
        check_values(case.id, address, volume, f"the {name} image")
    t2w, adc, dwi, mask = volumes
    if case.format == "picai":
        for address, image in zip(addresses[1:3], (adc, dwi), strict=True):
            check_can_be_interpolated(case.id, address, image)
        adc, dwi = (onto_grid(image, t2w) for image in (adc, dwi))
    for address, volume in zip(addresses[1:], (adc, dwi, mask), strict=True):
        _check_grid(case.id, address, volume, t2w)
        volume.CopyInformation(t2w)
    _check_mask(case.id, addresses[3], mask)
    return Examination(t2w, adc, dwi, mask, (addresses[0], addresses[1], addresses[2], addresses[3]))


def check_values(case_id: str, address: str, image: sitk.Image, name: str) -> None:
    """Whether an image's values are finite and not all the same.

    Args:
        case_id: the case.
        address: the image's file.
        image: the image.
        name: what to call it in the message.

    Raises:
        CaseError: they are not.
    """
    values = array_of(image)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise CaseError(case_id, address, f"has {count} values that are not finite (NaN or infinite)")
    if low == high:
        raise CaseError(case_id, address, f"{name} is constant: all voxels are {low}")


def check_can_be_interpolated(case_id: str, address: str, image: sitk.Image) -> None:
    """Whether an image has enough voxels for a B-spline.

    Raises:
        CaseError: it has not.
    """
    if min(image.GetSize()) < SMALLEST_SPLINE_SIZE:
        reason = f"has the size {image.GetSize()}; cubic interpolation needs {SMALLEST_SPLINE_SIZE} voxels on each axis"
        raise CaseError(case_id, address, reason)


def onto_grid(image: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """The image on the grid of ``reference``, by B-spline of order 3, in its own pixel type; 0 outside.

    An unsigned pixel type cuts the spline's undershoot at 0, as nnU-Net raw archives of PI-CAI have it.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)  # cases run side by side: one thread each
    resampler.SetReferenceImage(reference)
    resampler.SetInterpolator(sitk.sitkBSpline3)
    resampler.SetDefaultPixelValue(0)
    resampler.SetOutputPixelType(image.GetPixelID())
    return resampler.Execute(image)


def _read(case_id: str, storage: Storage, key: str) -> sitk.Image:
    if storage.stat(key) is None:
        raise CaseError(case_id, storage.where(key), "missing")
    try:
        return read_image(storage.local(key))
    except UnreadableFileError as error:
        raise CaseError(case_id, storage.where(key), error.reason) from error


def _check_mask(case_id: str, address: str, mask: sitk.Image) -> None:
    labels = np.unique(array_of(mask))
    if others := [label for label in labels.tolist() if label not in ZONES]:
        shown = ", ".join(f"{label:g}" for label in others[:5])
        raise CaseError(case_id, address, f"has the labels {shown}; only 0, 1 and 2 are zones")
    if not labels.any():
        raise CaseError(case_id, address, "the mask has no foreground: no voxel is labelled 1 or 2")


def _check_grid(case_id: str, address: str, image: sitk.Image, reference: sitk.Image) -> None:
    if image.GetSize() != reference.GetSize():
        raise CaseError(case_id, address, f"has the size {image.GetSize()}, but T2W has {reference.GetSize()}")
    distance = max(
        float(np.linalg.norm(np.subtract(ours, theirs)))
        for ours, theirs in zip(_corners(image), _corners(reference), strict=True)
    )
    if not distance <= GRID_TOLERANCE_MM:
        raise CaseError(
            case_id,
            address,
            f"lies up to {distance:.3g} mm away from T2W's grid (origin {image.GetOrigin()} against "
            f"{reference.GetOrigin()}, spacing {image.GetSpacing()} against {reference.GetSpacing()})",
        )


def _corners(image: sitk.Image) -> list[tuple[float, ...]]:
    last = [size - 1 for size in image.GetSize()]
    return [image.TransformIndexToPhysicalPoint(corner) for corner in itertools.product(*((0, end) for end in last))]


def array_of(image: sitk.Image) -> npt.NDArray[Any]:
    """The image's voxels with axes (z, y, x), as a view: valid as long as ``image`` is."""
    view: npt.NDArray[Any] = sitk.GetArrayViewFromImage(image)
    return view
