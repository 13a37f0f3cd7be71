"""One case's files, read and checked. Whatever is wrong with a file ends in a CaseError that names it."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.archive import CHANNELS, Case
from zssmnet.errors import CaseError
from zssmnet.storage import Storage

GRID_TOLERANCE_MM = 1e-3
ZONES = (0, 1, 2)
"""Labels of a zonal mask: background, peripheral zone, the rest of the gland."""
LARGEST_VOLUME = 2**31
"""Voxels; a header that asks for more is taken to be damaged (PI-CAI's largest examination has 3.3e7)."""

sitk.ProcessObject.SetGlobalWarningDisplay(False)


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
    """Read and check a case. PI-CAI's ADC and DWI are brought onto T2W's grid.

    Raises:
        CaseError: a file is missing, unreadable or not a 3-D image, grids differ by more than 1e-3 mm, the mask has
            no foreground or other labels than 0, 1, 2, values are not finite, or an image is constant.
    """
    sources = [(images, key) for key in case.images] + [(masks, case.mask)]
    addresses = [storage.where(key) for storage, key in sources]
    volumes = [_read(case.id, storage, key) for storage, key in sources]
    for address, volume, name in zip(addresses, volumes, CHANNELS, strict=False):
        _check_image(case.id, address, volume, name)
    t2w, adc, dwi, mask = volumes
    if case.format == "picai":
        adc, dwi = (onto_grid(image, t2w) for image in (adc, dwi))
    for address, volume in zip(addresses[1:], (adc, dwi, mask), strict=True):
        _check_grid(case.id, address, volume, t2w)
    _check_mask(case.id, addresses[3], mask)
    return Examination(t2w, adc, dwi, mask, (addresses[0], addresses[1], addresses[2], addresses[3]))


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
    address = storage.where(key)
    if storage.stat(key) is None:
        raise CaseError(case_id, address, "missing")
    reader = sitk.ImageFileReader()
    reader.SetNumberOfThreads(1)
    reader.SetFileName(str(storage.local(key)))
    try:
        reader.ReadImageInformation()
        _check_header(case_id, address, reader)
        return reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise CaseError(case_id, address, f"cannot be read: {_last_line(error)}") from error


def _check_header(case_id: str, address: str, reader: sitk.ImageFileReader) -> None:
    size, spacing = reader.GetSize(), reader.GetSpacing()
    if len(size) != 3:
        raise CaseError(case_id, address, f"is {len(size)}-D with size {size}; a 3-D image is needed")
    if (components := reader.GetNumberOfComponents()) != 1:
        raise CaseError(case_id, address, f"has {components} values a voxel; one is needed")
    if int(np.prod(size, dtype=np.float64)) > LARGEST_VOLUME:
        raise CaseError(case_id, address, f"its header asks for {size} voxels; it is probably damaged")
    if not all(0 < step < 1000 for step in spacing):
        raise CaseError(case_id, address, f"has the spacing {spacing} mm; it is probably damaged")


def _check_image(case_id: str, address: str, image: sitk.Image, name: str) -> None:
    values = array_of(image)
    if np.iscomplexobj(values):
        raise CaseError(case_id, address, "holds complex numbers; a magnitude image is needed")
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(values)))
        raise CaseError(case_id, address, f"{count} values are not finite (NaN or infinite)")
    if low == high:
        raise CaseError(case_id, address, f"the {name} image is constant: all voxels are {low}")


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


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR: ") if lines else type(error).__name__
