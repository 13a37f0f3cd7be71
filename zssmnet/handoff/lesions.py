"""Labels of lesions, on T2W's grid or prepared as the images of their case."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.config import PreparationConfig
from zssmnet.data.archive import MASK_SUFFIX
from zssmnet.data.examination import Examination, case_errors, check_grid, file_errors
from zssmnet.data.image_io import array_of, image_like, read_image
from zssmnet.data.orientation import in_axial_order
from zssmnet.data.zonal_mask import LABEL_TOLERANCE
from zssmnet.errors import CaseError, ImageError
from zssmnet.preparation.prepare import PreparedVolumes, prepare_volumes
from zssmnet.preparation.resampling import crop_mask, grid_of, resample_mask, target_grid
from zssmnet.storage import Storage

Labels = Literal["binary", "isup"]
ISUP_GRADES = (2, 3, 4, 5)
MOST_LABELS = 16
"""Different values of a label, 0 among them: grades, or numbers of lesions."""
MOST_OVERLAP = {"whole gland": 0.7, "zone 1": 0.8, "zone 2": 0.8}
"""Largest Dice coefficients of a lesion; of 40 lesions by experts at most 0.53, 0.38 and 0.69."""
MOST_VOLUME = 0.8
"""Largest volume of a lesion as a share of the gland's; of 40 lesions by experts at most 0.49."""


def check_labelled(case_id: str, lesions: Storage) -> None:
    """Raise a CaseError if a case has no label: nobody knows whether it has a lesion."""
    if lesions.stat(key := case_id + MASK_SUFFIX) is None:
        raise CaseError(case_id, lesions.where(key), "missing: the case has no lesion label")


def read_lesions(case_id: str, lesions: Storage, examination: Examination, labels: Labels) -> sitk.Image:
    """A case's label on T2W's grid, with the numbers of nnU-Net's classes.

    Args:
        lesions: folder of ``<case>.nii.gz`` on T2W's grid: 0, or a lesion's ISUP grade (with ``binary``, any whole
            number above 0).

    Raises:
        CaseError: a file that is unreadable, of another grid, of probabilities, without grades, or of the gland.
    """
    key = case_id + MASK_SUFFIX
    where = lesions.where(key)
    with file_errors(case_id, lesions, key):
        image = read_image(lesions.local(key))
    with case_errors(case_id, where):
        image = in_axial_order(image)
    check_grid(case_id, where, image, examination.t2w)
    with case_errors(case_id, where):
        grades = whole_labels(array_of(image), labels)
        _check_lesion(grades > 0, array_of(examination.mask))
    classes = grades > 0 if labels == "binary" else np.searchsorted((0, *ISUP_GRADES), grades)
    return image_like(classes.astype(np.uint8), examination.t2w)


def whole_labels(values: npt.NDArray[Any], labels: Labels = "binary") -> npt.NDArray[Any]:
    """Labels, rounded where they are whole but for 1e-3; ImageError if they are anything else, as probabilities."""
    whole: npt.NDArray[Any] = np.rint(values)
    is_label = (np.abs(values - whole) <= LABEL_TOLERANCE) & (whole >= 0)
    if not is_label.all():
        shown = "has the values " + ", ".join(f"{value:g}" for value in np.unique(values[~is_label])[:3])
        raise ImageError(f"{shown}: a lesion label has whole numbers from 0; threshold a probability map first")
    found = np.unique(whole).tolist()
    if labels == "isup" and (others := sorted(set(found) - {0, *ISUP_GRADES})):
        shown = ", ".join(f"{value:g}" for value in others[:5])
        raise ImageError(f"has the values {shown}, which are no ISUP grades of csPCa (2 to 5); use binary labels")
    if len(found) > MOST_LABELS:
        raise ImageError(f"has {len(found)} different values, as a scaled probability map; threshold it first")
    return whole


def _check_lesion(lesion_ZYX: npt.NDArray[np.bool_], zones_ZYX: npt.NDArray[Any]) -> None:
    """Raise an ImageError if a label is a mask of the gland or of a zone, be it another reader's, or lies outside."""
    volume = int(np.count_nonzero(lesion_ZYX))
    if volume and not (lesion_ZYX & (zones_ZYX > 0)).any():  # of 39 lesions by experts 44 % at least lie inside
        raise ImageError("lies outside the gland altogether, as no lesion does; is it another case's, or flipped?")
    masks = {"whole gland": zones_ZYX > 0, "zone 1": zones_ZYX == 1, "zone 2": zones_ZYX == 2}
    for name, zone_ZYX in masks.items():
        overlap = 2 * np.count_nonzero(lesion_ZYX & zone_ZYX) / max(1, volume + int(np.count_nonzero(zone_ZYX)))
        if overlap > MOST_OVERLAP[name]:
            how = "voxel by voxel" if overlap == 1 else f"Dice {overlap:.2f}"
            raise ImageError(f"marks the {name}, {how}: it is a zonal mask; name the folder of lesion labels")
    if (share := volume / np.count_nonzero(zones_ZYX)) > MOST_VOLUME:
        found = f"marks {share:.0%} of the gland's volume, as no lesion does"
        raise ImageError(f"{found}; name the folder of lesion labels")


def prepare_with_label(
    case_id: str, examination: Examination, label: sitk.Image, config: PreparationConfig
) -> tuple[PreparedVolumes, sitk.Image]:
    """A case resampled and cropped, and its label on the same grid; CaseError if nothing is left of a lesion."""
    prepared = prepare_volumes(case_id, examination, config)
    target = target_grid(grid_of(examination.t2w), config.spacing_mm)
    cropped = crop_mask(resample_mask(label, target), prepared.roi)
    if (count := np.count_nonzero(array_of(label))) and not array_of(cropped).any():
        where = f"{config.margin_mm:g} mm around the gland, in voxels of {config.spacing_mm} mm"
        raise CaseError(case_id, case_id + MASK_SUFFIX, f"nothing of the lesion, {count} voxels, is left {where}")
    return prepared, cropped
