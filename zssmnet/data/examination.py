"""One case's files, read and checked. Whatever is wrong with a file ends in a CaseError that names it."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from zssmnet.data.archive import CHANNELS, MASK_SUFFIX, Case
from zssmnet.data.image_io import NO_PLACE, array_of, check_values, read_image
from zssmnet.data.orientation import STRONGLY_OBLIQUE_DEGREES, in_axial_order, tilt_degrees
from zssmnet.data.plausibility import find_outlier
from zssmnet.data.zonal_mask import with_whole_labels
from zssmnet.errors import CaseError, ImageError, InputError, StorageError, UnreadableFileError
from zssmnet.storage import Address, LocalStorage, Storage
from zssmnet.storage.address import local_path

GRID_TOLERANCE = 0.25
"""Voxels by which a corner of two grids may differ: files round directions and origins (a NIfTI header gives a place to
about 1e-4 of the field of view); what was drawn on another grid differs by half a voxel or more."""
_PLACELESS = "has no place in its header (qform_code and sform_code are 0)"
SMALLEST_SPLINE_SIZE = 4
"""Voxels an axis needs for a B-spline of order 3."""


@dataclass(frozen=True)
class Examination:
    """The three images, of any scalar pixel type, and the zonal mask of a case, all on T2W's grid."""

    t2w: sitk.Image
    adc: sitk.Image
    dwi: sitk.Image
    mask: sitk.Image  # labels 0 background, 1 peripheral zone, 2 the rest of the gland
    files: tuple[str, str, str, str]  # the four files' addresses, in this order, for messages
    measured: tuple[sitk.Image, sitk.Image] | None = None  # ADC, DWI on their own grids, if brought onto T2W's here
    warnings: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
        """T2W, ADC, DWI."""
        return self.t2w, self.adc, self.dwi


def read_files(images: Sequence[Address], zonal_mask: Address) -> tuple[str, Examination]:
    """Read and check a case from files anywhere on this machine; its id is the mask's name.

    Args:
        images: T2W, ADC and DWI, in this order: `.nii.gz` on one grid, or PI-CAI's `.mha`, of which ADC and DWI are
            brought onto T2W's grid.
        zonal_mask: `.nii.gz` on T2W's grid: 0 background, 1 peripheral zone, 2 the rest of the gland.

    Raises:
        InputError: not three images.
        CaseError: a file is missing, unreadable or cannot be used.
    """
    if len(images := tuple(images)) != 3:
        raise InputError(f"{len(images)} images: name those of T2W, ADC and DWI, in this order")
    t2w, adc, dwi, mask = (local_path(file).absolute().relative_to("/").as_posix() for file in (*images, zonal_mask))
    case_id = Path(mask).name.removesuffix(MASK_SUFFIX)
    root = LocalStorage("/")
    case = Case(case_id, "picai" if t2w.endswith(".mha") else "nnunet", (t2w, adc, dwi), mask)
    return case_id, read_examination(case, root, root)


def read_examination(case: Case, images: Storage, masks: Storage) -> Examination:
    """Read and check a case.

    Axes are brought into the order left, posterior, superior where that takes no interpolation; then ADC and DWI of
    PI-CAI and BIDS are brought onto T2W's grid. All four lie exactly on it in the end.

    Raises:
        CaseError: a file is missing, unreadable or not a 3-D image, slices are not axial and along another axis than
            the third, grids differ by more than a quarter of a voxel, the mask has no foreground or other labels than
            0, 1, 2, values are not finite or impossible, or an image is constant.
    """
    (t2w, adc, dwi), measured, warnings = read_images(case, images)
    mask = read_mask(case, masks, t2w)
    t2w_file, adc_file, dwi_file = map(images.where, case.images)
    return Examination(t2w, adc, dwi, mask, (t2w_file, adc_file, dwi_file, masks.where(case.mask)), measured, warnings)


def read_images(
    case: Case, images: Storage, count: int = len(CHANNELS)
) -> tuple[list[sitk.Image], tuple[sitk.Image, sitk.Image] | None, tuple[str, ...]]:
    """The first ``count`` images of a case on T2W's grid, ADC and DWI as measured, and warnings: `read_examination`."""
    files = [images.where(key) for key in case.images[:count]]
    volumes, warnings, measured = list[sitk.Image](), list[str](), None
    for key, file, name in zip(case.images, files, CHANNELS, strict=False):
        with file_errors(case.id, images, key), case_errors(case.id, file):
            volume = read_image(images.local(key))
            check_values(case.id, file, volume, f"the {name} image")
            if outlier := find_outlier(array_of(volume)):
                if outlier.is_damage:
                    raise ImageError(f"is damaged: it has {outlier}; such a value stands for NaN or infinity")
                warnings.append(f"{name} has {outlier}: is the file damaged?")
            if volume.HasMetaDataKey(NO_PLACE) and case.format != "nnunet":
                raise ImageError(f"{_PLACELESS}, so it cannot be brought onto one grid with the others")
            if volume.HasMetaDataKey(NO_PLACE) and not volumes:
                warnings.append(f"{name} {_PLACELESS}: its axes are taken to run to the left, the back and the head")
            volumes.append(in_axial_order(volume))
    t2w, *others = volumes
    if (tilt := tilt_degrees(t2w)) > STRONGLY_OBLIQUE_DEGREES:
        warnings.append(f"axes are tilted by {tilt:.0f} degrees against the patient's: is this an axial examination?")
    if case.format != "nnunet" and others:
        for file, image in zip(files[1:], others, strict=True):
            check_can_be_interpolated(case.id, file, image)
        measured = others[0], others[1]
        others = [onto_grid(image, t2w) for image in others]
    for file, volume in zip(files[1:], others, strict=True):
        check_grid(case.id, file, volume, t2w)
        volume.CopyInformation(t2w)
    return [t2w, *others], measured, tuple(warnings)


def read_mask(case: Case, masks: Storage, t2w: sitk.Image) -> sitk.Image:
    """A case's zonal mask with whole labels, on T2W's grid exactly; CaseError as of `read_examination`."""
    file = masks.where(case.mask)
    with file_errors(case.id, masks, case.mask), case_errors(case.id, file):
        mask = in_axial_order(read_image(masks.local(case.mask)))
        check_grid(case.id, file, mask, t2w)
        mask.CopyInformation(t2w)
        return with_whole_labels(mask)


@contextmanager
def case_errors(case_id: str, file: str) -> Iterator[None]:
    """What is wrong with an image becomes a CaseError."""
    try:
        yield
    except ImageError as error:
        raise CaseError(case_id, file, str(error)) from error


def check_can_be_interpolated(case_id: str, address: str, image: sitk.Image) -> None:
    """Raise a CaseError if an image has not enough voxels for a B-spline."""
    if min(image.GetSize()) < SMALLEST_SPLINE_SIZE:
        reason = f"has the size {image.GetSize()}; cubic interpolation needs {SMALLEST_SPLINE_SIZE} voxels on each axis"
        raise CaseError(case_id, address, reason)


def onto_grid(image: sitk.Image, reference: sitk.Image, interpolator: int = sitk.sitkBSpline3) -> sitk.Image:
    """The image on the grid of ``reference``, by B-spline of order 3 as a rule, in its own pixel type; 0 outside.

    An unsigned pixel type cuts the spline's undershoot at 0, as nnU-Net raw archives of PI-CAI have it.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)  # cases run side by side: one thread each
    resampler.SetReferenceImage(reference)
    resampler.SetInterpolator(interpolator)
    resampler.SetDefaultPixelValue(0)
    resampler.SetOutputPixelType(image.GetPixelID())
    return resampler.Execute(image)


@contextmanager
def file_errors(case_id: str, storage: Storage, key: str) -> Iterator[None]:
    """A file that is missing or cannot be read becomes a CaseError; a storage that fails does not."""
    try:
        yield
    except UnreadableFileError as error:
        raise CaseError(case_id, storage.where(key), error.reason) from error
    except StorageError as error:
        if storage.stat(key) is None:
            raise CaseError(case_id, storage.where(key), "missing") from error
        raise


def check_grid(case_id: str, address: str, image: sitk.Image, reference: sitk.Image) -> None:
    """Raise a CaseError if an image's size is not T2W's, or a corner lies over `GRID_TOLERANCE` voxels away."""
    if image.GetSize() != reference.GetSize():
        raise CaseError(case_id, address, f"has the size {image.GetSize()}, but T2W has {reference.GetSize()}")
    mm = voxels = 0.0
    for corner in itertools.product(*((0, size - 1) for size in image.GetSize())):
        place = image.TransformIndexToPhysicalPoint(corner)
        mm = max(mm, math.dist(place, reference.TransformIndexToPhysicalPoint(corner)))
        index = reference.TransformPhysicalPointToContinuousIndex(place)
        voxels = max(voxels, float(np.abs(np.subtract(index, corner)).max()))
    if not voxels <= GRID_TOLERANCE:
        reason = f"lies up to {mm:.3g} mm away from T2W's grid, {voxels:.2g} voxels (origin {image.GetOrigin()} "
        reason += f"against {reference.GetOrigin()}, spacing {image.GetSpacing()} against {reference.GetSpacing()})"
        raise CaseError(case_id, address, reason)
