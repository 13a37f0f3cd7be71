"""One case in, one prepared case and its record out: resampled to the target spacing, cropped around the gland.

Published under ``subset{k}/<case>_0000.nii.gz`` (T2W), ``_0001`` (ADC), ``_0002`` (DWI), all float32, and
``<case>.nii.gz`` (mask, its pixel type kept), with a right origin, spacing and direction.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import SimpleITK as sitk
from typing_extensions import override

from zssmnet.config import PreparationConfig
from zssmnet.data.archive import CHANNELS, IMAGE_SUFFIXES, MASK_SUFFIX, Case
from zssmnet.data.examination import Examination, case_errors, check_can_be_interpolated, file_errors, read_examination
from zssmnet.data.image_io import LARGEST_VOLUME, array_of, check_values, write_image
from zssmnet.data.mask_checks import GLAND_ML, implausible, zones_ml
from zssmnet.data.splits import SUBSETS
from zssmnet.data.zonal_mask import without_stray_parts, zone_warning
from zssmnet.errors import CaseError
from zssmnet.preparation.channels import check_channels
from zssmnet.preparation.cropping import Box, Triple, bounding_box, margin_in_voxels
from zssmnet.preparation.gland_place import LOOKED_AT_MM
from zssmnet.preparation.measured import in_common_unit, uncovered
from zssmnet.preparation.resampling import crop_mask, grid_of, resample_image, resample_mask, target_grid
from zssmnet.storage import Storage
from zssmnet.storage.interface import Listed
from zssmnet.storage.records import (
    Input,
    Record,
    fingerprints,
    publish_recorded,
    read_record,
    record_key,
    record_names,
    refresh_record,
    remove_record,
    same_content,
    up_to_date,
)

log = logging.getLogger(__name__)

METHOD = 1
"""Raised whenever the same inputs and parameters would give other outputs, beyond what float32 rounds."""


@dataclass(frozen=True)
class PreparedVolumes:
    """A prepared case in memory: three float32 images and the mask, all on one grid."""

    images: tuple[sitk.Image, sitk.Image, sitk.Image]
    mask: sitk.Image
    roi: Box
    warnings: tuple[str, ...] = ()


class PreparedCase(Record):
    """The record of a prepared case. Sizes are (x, y, z) in voxels, spacings in mm."""

    case_id: str
    subset: int
    parameters: PreparationConfig
    size_before: Triple
    spacing_before: tuple[float, float, float]
    size_after: Triple
    spacing_after: tuple[float, float, float]
    roi_start: Triple
    warnings: tuple[str, ...]

    @override
    def is_valid_for(self, name: str) -> bool:
        keys = tuple(output.key for output in self.outputs)
        return self.subset in SUBSETS and name == self.case_id and keys == prepared_keys(name, self.subset)


def publish_prepared(
    case: Case, subset: int, images: Storage, masks: Storage, output: Storage, config: PreparationConfig
) -> tuple[PreparedCase, bool]:
    """Prepare one case and publish it, unless it is there already, made from the same files in the same way.

    Returns:
        The case's record, and whether any work was done.

    Raises:
        CaseError: the case cannot be used; what an earlier run published of it is removed.
    """
    known = read_record(output, case.id, PreparedCase)
    images, masks = Listed(images, case.images), Listed(masks, [case.mask])
    try:
        if present := up_to_date_record(case, subset, images, masks, output, config):
            refresh_record(output, case.id, present)
            return present, False
        inputs = _fingerprints(case, images, masks)
        examination = read_examination(case, images, masks)
        volumes = prepare_volumes(case.id, examination, config)
    except CaseError:
        remove_prepared(case.id, output)
        raise
    if known is None or known.subset != subset:
        remove_prepared(case.id, output)
    record = PreparedCase(
        method=METHOD,
        inputs=inputs,
        outputs=(),
        case_id=case.id,
        subset=subset,
        parameters=config,
        size_before=examination.t2w.GetSize(),
        spacing_before=examination.t2w.GetSpacing(),
        size_after=volumes.mask.GetSize(),
        spacing_after=volumes.mask.GetSpacing(),
        roi_start=volumes.roi.start,
        warnings=volumes.warnings,
    )
    written = zip(prepared_keys(case.id, subset), (*volumes.images, volumes.mask), strict=True)
    record = publish_recorded(output, case.id, record, {key: partial(write_image, volume) for key, volume in written})
    for warning in record.warnings:
        log.warning("%s: %s", case.id, warning)
    before, after = _times(record.size_before), _times(record.size_after)
    log.info("%s: prepared for subset %d, %s -> %s voxels", case.id, subset, before, after)
    return record, True


def up_to_date_record(
    case: Case, subset: int, images: Storage, masks: Storage, output: Storage, config: PreparationConfig
) -> PreparedCase | None:
    """The record of a case that needs no preparation: it was prepared from the same files in the same way.

    A file is read only where its size or version is not that of the record. The record has the present versions of all
    files; nothing is written, see `refresh_record`.

    Raises:
        CaseError: a file of the case is missing or cannot be read.
    """
    known = read_record(output, case.id, PreparedCase)
    if known is None or (known.method, known.subset, known.parameters) != (METHOD, subset, config):
        return None
    inputs = _fingerprints(case, images, masks, known.inputs)
    return up_to_date(output, known, inputs) if same_content(known.inputs, inputs) else None


def prepare_volumes(case_id: str, examination: Examination, config: PreparationConfig) -> PreparedVolumes:
    """Resample and crop one case in memory; only what is kept is resampled.

    Raises:
        CaseError: the gland vanishes on the target grid, an image is constant within the region of interest or does
            not cover it, or too few slices to interpolate, or a target grid too large to be that of an examination.
    """
    source = grid_of(examination.t2w)
    target = target_grid(source, config.spacing_mm)
    if target.size != source.size:
        check_can_be_interpolated(case_id, examination.files[0], examination.t2w)
    if math.prod(target.size) > LARGEST_VOLUME:
        reason = f"the spacing {source.spacing} mm would make it {_times(target.size)} voxels; it is probably damaged"
        raise CaseError(case_id, examination.files[0], reason)
    examination, warnings = _mended(case_id, examination, config)
    mask = resample_mask(examination.mask, target)
    roi = _region_of_interest(case_id, examination.files[3], mask, config)
    t2w, adc, dwi = (resample_image(image, target, roi) for image in examination.images)
    for image, name, file in zip((t2w, adc, dwi), CHANNELS, examination.files, strict=False):
        check_values(case_id, file, image, f"the {name} image around the gland")
    warnings += uncovered(case_id, examination, config)
    near = _near_gland(examination)
    if sum(zones_ml(near.mask)) >= GLAND_ML[0]:  # fewer voxels show little
        warnings += [*implausible(near.mask), *check_channels(case_id, near)]
    return PreparedVolumes((t2w, adc, dwi), crop_mask(mask, roi), roi, (*examination.warnings, *warnings))


def _mended(case_id: str, examination: Examination, config: PreparationConfig) -> tuple[Examination, list[str]]:
    """The examination without stray parts of its mask, ADC converted if that is asked for; and what is odd."""
    with case_errors(case_id, examination.files[3]):
        mask, stray = without_stray_parts(examination.mask, config.stray_mask_parts)
    adc, unit = in_common_unit(examination.adc, mask, config.convert_adc)
    warnings = [warning for warning in (stray, zone_warning(mask), unit) if warning]
    return replace(examination, mask=mask, adc=adc), warnings


def _near_gland(examination: Examination) -> Examination:
    """The gland and as much around it as is looked at."""
    mask = examination.mask
    gland = bounding_box(array_of(mask))
    assert gland
    region = gland.widened(margin_in_voxels(LOOKED_AT_MM, mask.GetSpacing()), mask.GetSize())
    t2w, adc, dwi, mask = (crop_mask(image, region) for image in (*examination.images, mask))
    return replace(examination, t2w=t2w, adc=adc, dwi=dwi, mask=mask)


def remove_stale(output: Storage, keep: set[str]) -> list[str]:
    """Remove cases that have a record, that is, were prepared here, and are not to be kept; their ids."""
    stale = [name for name in record_names(output) if name not in keep]
    for name in stale:
        remove_prepared(name, output)
    return stale


def remove_prepared(case_id: str, output: Storage) -> None:
    """Remove what an earlier run published of a case, if there is a record that it did.

    The record goes last: while there is one, a later run knows what is left to remove.
    """
    if output.stat(record_key(case_id)) is None:
        return
    if record := read_record(output, case_id, PreparedCase):
        keys = [produced.key for produced in record.outputs]
    else:  # of another version, unreadable
        keys = [key for subset in SUBSETS for key in prepared_keys(case_id, subset)]
    for key in keys:
        output.remove(key)
    remove_record(output, case_id)


def prepared_keys(case_id: str, subset: int) -> tuple[str, str, str, str]:
    """Where a prepared case's T2W, ADC, DWI and mask lie."""
    t2w, adc, dwi = (f"subset{subset}/{case_id}{suffix}" for suffix in IMAGE_SUFFIXES["nnunet"])
    return t2w, adc, dwi, f"subset{subset}/{case_id}{MASK_SUFFIX}"


def _fingerprints(case: Case, images: Storage, masks: Storage, known: Sequence[Input] = ()) -> tuple[Input, ...]:
    found: list[Input] = []
    for storage, key in [(images, key) for key in case.images] + [(masks, case.mask)]:
        with file_errors(case.id, storage, key):
            found.extend(fingerprints([(storage, key)], known))
    return tuple(found)


def _region_of_interest(case_id: str, file: str, mask: sitk.Image, config: PreparationConfig) -> Box:
    gland = bounding_box(array_of(mask))
    if gland is None:
        spacing = " x ".join(f"{step:g}" for step in mask.GetSpacing())
        raise CaseError(case_id, file, f"the mask's foreground is so thin that none is left at {spacing} mm")
    return gland.widened(margin_in_voxels(config.margin_mm, config.spacing_mm), mask.GetSize())


def _times(size: Triple) -> str:
    return " x ".join(str(voxels) for voxels in size)
