"""Labels of lesions, on T2W's grid or prepared as the images of their case."""

from typing import Literal

import numpy as np
import SimpleITK as sitk

from zssmnet.config import PreparationConfig
from zssmnet.data.archive import MASK_SUFFIX
from zssmnet.data.examination import Examination, case_errors, check_grid
from zssmnet.data.image_io import array_of, read_image
from zssmnet.data.orientation import in_axial_order
from zssmnet.errors import CaseError, UnreadableFileError
from zssmnet.preparation.prepare import PreparedVolumes, prepare_volumes
from zssmnet.preparation.resampling import crop_mask, grid_of, resample_mask, target_grid
from zssmnet.storage import Storage

Labels = Literal["binary", "isup"]
ISUP_GRADES = (2, 3, 4, 5)


def check_labelled(case_id: str, lesions: Storage) -> None:
    """Raise a CaseError if a case has no label: nobody knows whether it has a lesion."""
    key = case_id + MASK_SUFFIX
    if lesions.stat(key) is None:
        raise CaseError(case_id, lesions.where(key), "missing: the case has no lesion label")


def read_lesions(case_id: str, lesions: Storage, examination: Examination, labels: Labels) -> sitk.Image:
    """A case's label on T2W's grid, with the numbers of nnU-Net's classes.

    Args:
        lesions: folder of ``<case>.nii.gz`` on T2W's grid: 0, or a lesion's ISUP grade (with ``binary``, any value
            above 0).

    Raises:
        CaseError: a file that is unreadable, of another grid, without grades, or of the gland instead of lesions.
    """
    key = case_id + MASK_SUFFIX
    where = lesions.where(key)
    try:
        image = read_image(lesions.local(key))
    except UnreadableFileError as error:
        raise CaseError(case_id, where, error.reason) from error
    with case_errors(case_id, where):
        image = in_axial_order(image)
    check_grid(case_id, where, image, examination.t2w)
    values = array_of(image)
    if labels == "binary":
        classes = (values > 0).astype(np.uint8)
    else:
        if others := sorted(set(np.unique(values).tolist()) - {0, *ISUP_GRADES}):
            shown = ", ".join(f"{value:g}" for value in others[:5])
            reason = f"has the values {shown}, which are no ISUP grades of csPCa (2 to 5); use binary labels"
            raise CaseError(case_id, where, reason)
        classes = np.searchsorted((0, *ISUP_GRADES), values).astype(np.uint8)
    if np.array_equal(values > 0, array_of(examination.mask) > 0):
        reason = "marks the whole gland, voxel by voxel: it is a zonal mask; name the folder of lesion labels"
        raise CaseError(case_id, where, reason)
    result = sitk.GetImageFromArray(classes)
    result.CopyInformation(examination.t2w)
    return result


def prepare_with_label(
    case_id: str, examination: Examination, label: sitk.Image, config: PreparationConfig
) -> tuple[PreparedVolumes, sitk.Image]:
    """A case resampled and cropped, and its label on the same grid; see `prepare_volumes`."""
    prepared = prepare_volumes(case_id, examination, config)
    target = target_grid(grid_of(examination.t2w), config.spacing_mm)
    return prepared, crop_mask(resample_mask(label, target), prepared.roi)
