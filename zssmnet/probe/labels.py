"""Labelled cases as the probe takes them: a box around the gland with six channels, and what is to be found in it.

Some are tested, some tuned on, some learnt from: patients are never on two sides.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zssmnet.config import PreparationConfig, ProbeConfig, ProbeScale
from zssmnet.data.archive import MASK_SUFFIX, Case, patient_of, shortened, take_inventory
from zssmnet.data.examination import read_examination
from zssmnet.data.image_io import array_of
from zssmnet.errors import ArchiveError, CaseError, InputError
from zssmnet.handoff.nnunet_dataset import read_lesions
from zssmnet.preparation.cropping import Box, bounding_box
from zssmnet.preparation.cubes import padded, scaled_volume
from zssmnet.preparation.prepare import prepare_volumes
from zssmnet.preparation.resampling import crop_mask, grid_of, resample_mask, target_grid
from zssmnet.storage import Storage

log = logging.getLogger(__name__)

IMAGES = 3


@dataclass(frozen=True)
class LabelledCase:
    """A case of the probe.

    Attributes:
        input_CZYX: T2W, ADC, DWI, then three zones, which are blank where they are to be found; float32.
        label_ZYX: classes, int64: lesion 1; or peripheral zone 1, rest of the gland 2.
        gland_ZYX: where the gland is.
    """

    id: str
    patient: str
    input_CZYX: Tensor
    label_ZYX: Tensor
    gland_ZYX: Tensor


def read_labelled_cases(
    images: Storage, zonal_masks: Storage, labels: Storage | None, config: ProbeConfig, patient_pattern: str
) -> list[LabelledCase]:
    """Read all cases of an archive that have a label, sorted by id.

    Args:
        labels: folder of lesions ``<case>.nii.gz`` on T2W's grid, any value above 0 is a lesion; needed for lesions
            alone. A case without such a file is left out: nobody knows whether it has a lesion.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.

    Raises:
        ArchiveError: no archive there, or no case that can be used.
    """
    inventory = take_inventory(images, zonal_masks)
    found, faults = list[LabelledCase](), list(inventory.faults)
    present = {entry.key for entry in labels.list()} if labels else set()
    for case in inventory.cases:
        try:
            if labels and case.id + MASK_SUFFIX not in present:
                raise CaseError(case.id, labels.where(case.id + MASK_SUFFIX), "missing: the case has no lesion label")
            found.append(_read_case(case, images, zonal_masks, labels, config, patient_pattern))
        except CaseError as fault:
            faults.append(fault)
    for one in faults:
        log.warning("left out: %s", one)
    if not found:
        raise ArchiveError(f"{images.uri}: no case can be used; the first: {faults[0] if faults else 'there is none'}")
    return found


def _read_case(
    case: Case, images: Storage, zonal_masks: Storage, labels: Storage | None, config: ProbeConfig, pattern: str
) -> LabelledCase:
    scale = config.scale
    preparation = PreparationConfig(spacing_mm=scale.spacing_mm)
    examination = read_examination(case, images, zonal_masks)
    prepared = prepare_volumes(case.id, examination, preparation)
    t2w, adc, dwi = (array_of(image) for image in prepared.images)
    volume_CXYZ = scaled_volume((t2w, adc, dwi), array_of(prepared.mask))
    if labels:
        lesions = read_lesions(case.id, labels, examination, "binary")
        target = target_grid(grid_of(examination.t2w), scale.spacing_mm)
        label = crop_mask(
            resample_mask(lesions, target), prepared.roi
        )  # its array is a view, which must not outlive it
        volume_CXYZ = np.concatenate([volume_CXYZ, array_of(label).transpose(2, 1, 0)[None].astype(np.float32)])
    return _boxed(case.id, patient_of(case.id, pattern), _around_gland(volume_CXYZ, scale), bool(labels))


def _boxed(case_id: str, patient: str, volume_CZYX: Tensor, is_lesions: bool) -> LabelledCase:
    mask = volume_CZYX[IMAGES]
    zones = torch.stack([mask == zone for zone in range(3)]).float()
    label = volume_CZYX[-1].long()
    input_CZYX = torch.cat([volume_CZYX[:IMAGES], zones if is_lesions else torch.zeros_like(zones)])
    return LabelledCase(case_id, patient, input_CZYX, label, mask > 0)


def _around_gland(volume_CXYZ: np.ndarray, scale: ProbeScale) -> Tensor:
    """The box in the middle of which the gland lies, axes (channel, z, y, x)."""
    volume_CZYX = padded(volume_CXYZ, scale.box).transpose(0, 3, 2, 1)
    gland = bounding_box(volume_CZYX[IMAGES])
    assert gland
    size = np.array(scale.box)
    middle = np.add(gland.start, gland.stop) // 2
    x, y, z = np.clip(middle - size // 2, 0, volume_CZYX.shape[:0:-1] - size).tolist()
    window = Box((x, y, z), (x + size[0], y + size[1], z + size[2])).window_ZYX
    return torch.from_numpy(np.ascontiguousarray(volume_CZYX[:, *window]))


@dataclass(frozen=True)
class Sides:
    """The cases by what they are for.

    Attributes:
        test: never learnt from, by no weights and no arm.
        tuning: on which learning rates are chosen.
        pool: from which labelled cases are drawn.
    """

    test: tuple[LabelledCase, ...]
    tuning: tuple[LabelledCase, ...]
    pool: tuple[LabelledCase, ...]

    def labelled(self, count: int, seed: int) -> list[LabelledCase]:
        """So many labelled cases of a seed; those of a smaller count are among those of a larger one."""
        order = np.random.default_rng([seed, 1]).permutation(len(self.pool))
        return [self.pool[number] for number in order[:count]]


def choose_sides(cases: Sequence[LabelledCase], trained_patients: Iterable[str], config: ProbeConfig) -> Sides:
    """Divide cases by patient, those that weights were trained with never tested; InputError if they are too few."""
    trained = set(trained_patients)
    patients = sorted({case.patient for case in cases})
    order = [patients[number] for number in np.random.default_rng(config.seed).permutation(len(patients))]
    order.sort(key=lambda patient: patient in trained)  # stable: untouched patients first
    by_patient = {patient: [case for case in cases if case.patient == patient] for patient in patients}
    needs = (config.test_cases, config.tuning_cases, max(config.labelled))
    sides: list[list[LabelledCase]] = [[], [], []]
    for patient in order:
        side = next((one for one in range(2) if len(sides[one]) < needs[one]), 2)
        if side == 0 and patient in trained:
            break
        sides[side] += by_patient[patient]
    test, tuning, pool = sides
    untouched = sum(len(by_patient[patient]) for patient in patients if patient not in trained)
    if len(test) < needs[0] or len(tuning) < needs[1] or len(pool) < needs[2]:
        raise InputError(
            f"{len(cases)} labelled cases, {untouched} of them unknown to the weights, are too few for {needs[0]} to "
            f"test, {needs[1]} to choose learning rates and {needs[2]} to learn from: add cases, or ask for fewer with "
            "--test-cases, --tuning-cases and --labelled"
        )
    if config.task == "lesions":
        _check_lesions("test", test)
        _check_lesions("tuning", tuning)
    return Sides(tuple(test), tuple(tuning), tuple(pool))


def _check_lesions(side: str, cases: Sequence[LabelledCase]) -> None:
    if cases and not any(case.label_ZYX.any() for case in cases):
        raise InputError(
            f"none of the {len(cases)} {side} cases ({shortened(case.id for case in cases)}) has a lesion near the "
            f"gland; choose other ones with --seed, or more with --{side}-cases"
        )
