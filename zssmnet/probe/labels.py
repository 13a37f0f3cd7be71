"""Labelled cases as the probe takes them: a box around the gland with six channels, and what is to be found in it.

Some are tested, some tuned on, some trained on.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zssmnet.config import PreparationConfig, ProbeConfig, ProbeScale
from zssmnet.data.archive import Case, patient_of, shortened, take_inventory
from zssmnet.data.examination import read_examination
from zssmnet.data.image_io import array_of
from zssmnet.errors import ArchiveError, CaseError, InputError
from zssmnet.handoff.lesions import check_labelled, prepare_with_label, read_lesions
from zssmnet.preparation.cropping import Box, bounding_box
from zssmnet.preparation.cubes import padded, scaled_volume
from zssmnet.preparation.prepare import prepare_volumes
from zssmnet.storage import Storage
from zssmnet.storage.interface import Listed

log = logging.getLogger(__name__)


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
    labels = Listed(labels) if labels else None
    for case in inventory.cases:
        try:
            volume_CZYX = _read_volume(case, images, zonal_masks, labels, config.scale)
        except CaseError as fault:
            faults.append(fault)
            continue
        mask = volume_CZYX[3]
        zones_CZYX = torch.stack([mask == zone for zone in range(3)]).float()
        zones_CZYX = zones_CZYX if labels else torch.zeros_like(zones_CZYX)
        input_CZYX = torch.cat([volume_CZYX[:3], zones_CZYX])
        patient = patient_of(case.id, patient_pattern)
        found.append(LabelledCase(case.id, patient, input_CZYX, volume_CZYX[-1].long(), mask > 0))
    for one in faults:
        log.warning("left out: %s", one)
    if not found:
        raise ArchiveError(f"{images.uri}: no case can be used; the first: {faults[0] if faults else 'there is none'}")
    return found


def _read_volume(
    case: Case, images: Storage, zonal_masks: Storage, labels: Storage | None, scale: ProbeScale
) -> Tensor:
    """T2W, ADC, DWI, zonal mask and label (lesions, or the mask again) in the box around the gland (C, Z, Y, X)."""
    if labels:
        check_labelled(case.id, labels)
    preparation = PreparationConfig(spacing_mm=scale.spacing_mm)
    examination = read_examination(case, images, zonal_masks)
    if labels:
        lesions = read_lesions(case.id, labels, examination, "binary")
        prepared, label = prepare_with_label(case.id, examination, lesions, preparation)
    else:
        prepared = prepare_volumes(case.id, examination, preparation)
        label = prepared.mask
    t2w, adc, dwi = (array_of(image) for image in prepared.images)
    volume_CXYZ = scaled_volume((t2w, adc, dwi), array_of(prepared.mask))
    label_XYZ = array_of(label).transpose(2, 1, 0).astype(np.float32)
    return _around_gland(np.concatenate([volume_CXYZ, label_XYZ[None]]), scale)


def _around_gland(volume_CXYZ: np.ndarray, scale: ProbeScale) -> Tensor:
    """The box in the middle of which the gland lies, axes (channel, z, y, x)."""
    volume_CZYX = padded(volume_CXYZ, scale.box).transpose(0, 3, 2, 1)
    gland = bounding_box(volume_CZYX[3])
    assert gland
    size = np.array(scale.box)
    middle = np.add(gland.start, gland.stop) // 2
    x, y, z = np.clip(middle - size // 2, 0, volume_CZYX.shape[:0:-1] - size).tolist()
    window = Box((x, y, z), (x + size[0], y + size[1], z + size[2])).window_ZYX
    return torch.from_numpy(np.ascontiguousarray(volume_CZYX[:, *window]))


@dataclass(frozen=True)
class Split:
    """The cases by what they are for; a patient's cases are all for the same.

    Attributes:
        test: never trained on, by no weights and no arm.
        tuning: on which learning rates are chosen.
        pool: from which labelled cases are drawn.
    """

    test: tuple[LabelledCase, ...]
    tuning: tuple[LabelledCase, ...]
    pool: tuple[LabelledCase, ...]

    def labelled(self, count: int, seed: int) -> list[LabelledCase]:
        """This number of labelled cases of a seed; smaller sets are nested in larger ones."""
        order = np.random.default_rng([seed, 1]).permutation(len(self.pool))
        return [self.pool[number] for number in order[:count]]


def split_cases(cases: Sequence[LabelledCase], trained_patients: Iterable[str], config: ProbeConfig) -> Split:
    """Split cases by patient, those that weights were trained with never tested; InputError if they are too few."""
    trained = set(trained_patients)
    patients = sorted({case.patient for case in cases})
    order = [patients[number] for number in np.random.default_rng(config.seed).permutation(len(patients))]
    order.sort(key=lambda patient: patient in trained)  # stable: untouched patients first
    test, tuning, pool = parts = list[LabelledCase](), list[LabelledCase](), list[LabelledCase]()
    needs = (config.test_cases, config.tuning_cases, max(config.labelled))
    for patient in order:
        part = next((part for part, need in zip(parts[:2], needs, strict=False) if len(part) < need), pool)
        if part is test and patient in trained:
            break
        part += [case for case in cases if case.patient == patient]
    if any(len(part) < need for part, need in zip(parts, needs, strict=True)):
        raise InputError(
            f"{len(cases)} labelled cases, {sum(case.patient not in trained for case in cases)} of them unknown to the "
            f"weights, are too few for {needs[0]} to test, {needs[1]} to choose learning rates and {needs[2]} to learn "
            "from: add cases, or ask for fewer with --test-cases, --tuning-cases and --labelled"
        )
    for name, part in (("test", test), ("tuning", tuning)):
        if config.task == "lesions" and part and not any(case.label_ZYX.any() for case in part):
            raise InputError(
                f"none of the {len(part)} {name} cases ({shortened(case.id for case in part)}) has a lesion near the "
                f"gland; choose other ones with --seed, or more with --{name}-cases"
            )
    return Split(tuple(test), tuple(tuning), tuple(pool))
