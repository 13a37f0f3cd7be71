"""Labelled cases as the probe takes them: a box around the gland with six channels, and what is to be found in it.

Some are tested, some tuned on, some trained on: that is decided by their ids, and only what is used is read.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from zssmnet.config import PICAI_PATIENT, IntensityScaling, PreparationConfig, ProbeConfig, ProbeScale
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

TUNING_SEEDS = 2
"""By one seed alone, a rate with which every other training fails may win."""


@dataclass(frozen=True)
class LabelledCase:
    """A case of the probe.

    Attributes:
        input_CZYX: T2W, ADC, DWI, then three zones, which are blank where they are to be found; float32.
        label_ZYX: classes, int64: lesion 1; or peripheral zone 1, rest of the gland 2.
        gland_ZYX: where the gland is.
    """

    id: str
    input_CZYX: Tensor
    label_ZYX: Tensor
    gland_ZYX: Tensor

    @cached_property
    def digest(self) -> str:
        """12 hex digits of what is learnt from it, or tested."""
        content = hashlib.sha256(self.id.encode())
        for tensor in (self.input_CZYX, self.label_ZYX):
            content.update(tensor.numpy().tobytes())
        return content.hexdigest()[:12]


@dataclass(frozen=True)
class LabelledCases:
    """Cases by their ids, and how one of them is read.

    Attributes:
        ids: sorted.
        read: raises CaseError where a case cannot be used.
    """

    ids: Collection[str]
    read: Callable[[str], LabelledCase]


def find_labelled_cases(
    images: Storage,
    zonal_masks: Storage,
    labels: Storage | None,
    scale: ProbeScale,
    intensity_scaling: IntensityScaling = "maximum",
) -> LabelledCases:
    """Find all cases of an archive that have a label; none of them is read yet.

    Args:
        labels: folder of lesions ``<case>.nii.gz`` on T2W's grid, any value above 0 is a lesion; needed for lesions
            alone. A case without such a file is left out: nobody knows whether it has a lesion.
        intensity_scaling: of T2W and DWI, as of the weights.

    Raises:
        ArchiveError: no archive there, or no case that can be used.
    """
    inventory = take_inventory(images, zonal_masks)
    found, faults = dict[str, Case](), list(inventory.faults)
    labels = Listed(labels) if labels else None
    for case in inventory.cases:
        try:
            if labels:
                check_labelled(case.id, labels)
            found[case.id] = case
        except CaseError as fault:
            faults.append(fault)
    for one in faults:
        log.warning("left out: %s", one)
    if not found:
        raise ArchiveError(f"{images.uri}: no case can be used; the first: {faults[0] if faults else 'there is none'}")
    preparation = PreparationConfig(spacing_mm=scale.spacing_mm)

    def read(case_id: str) -> LabelledCase:
        examination = read_examination(found[case_id], images, zonal_masks)
        if labels:
            lesions = read_lesions(case_id, labels, examination, "binary")
            prepared, label = prepare_with_label(case_id, examination, lesions, preparation)
        else:
            prepared = prepare_volumes(case_id, examination, preparation)
            label = prepared.mask
        t2w, adc, dwi = (array_of(image) for image in prepared.images)
        volume_CXYZ = scaled_volume((t2w, adc, dwi), array_of(prepared.mask), intensity_scaling)
        label_XYZ = array_of(label).transpose(2, 1, 0).astype(np.float32)
        volume_CZYX = _around_gland(np.concatenate([volume_CXYZ, label_XYZ[None]]), scale)
        mask = volume_CZYX[3]
        zones_CZYX = torch.stack([mask == zone for zone in range(3)]).float() * bool(labels)
        return LabelledCase(case_id, torch.cat([volume_CZYX[:3], zones_CZYX]), volume_CZYX[-1].long(), mask > 0)

    return LabelledCases(list(found), read)


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
        pool: from which labelled cases are taken, in this order.
        each: number of labelled cases of a seed.
    """

    test: tuple[LabelledCase, ...]
    tuning: tuple[LabelledCase, ...]
    pool: tuple[LabelledCase, ...]
    each: int

    def labelled(self, count: int, seed: int) -> list[LabelledCase]:
        """The labelled cases of a seed, negative for tuning: no two have one in common, as far as the pool reaches."""
        first = (seed + TUNING_SEEDS) * self.each
        return [self.pool[(first + number) % len(self.pool)] for number in range(count)]


def split_cases(
    cases: LabelledCases, trained_patients: Iterable[str], config: ProbeConfig, patient_pattern: str = PICAI_PATIENT
) -> Split:
    """Split cases by patient, and read those that are used; no patient that weights were trained with is tested.

    Raises:
        InputError: too few cases, or no lesion among those to test.
    """
    trained, by_patient = set(trained_patients), dict[str, list[str]]()
    for case_id in cases.ids:
        by_patient.setdefault(patient_of(case_id, patient_pattern), []).append(case_id)
    patients = sorted(by_patient)
    order = [patients[number] for number in np.random.default_rng(config.seed).permutation(len(patients))]
    order.sort(key=lambda patient: patient in trained)  # stable: untouched patients first
    wanted = max((config.seeds + TUNING_SEEDS) * config.labelled, config.many_labelled)
    test, tuning, pool = parts = list[LabelledCase](), list[LabelledCase](), list[LabelledCase]()
    unusable = 0
    for patient in order:
        needs = (config.test_cases, config.tuning_cases, wanted)
        part = next((part for part, need in zip(parts, needs, strict=True) if len(part) < need), None)
        if part is None or (part is test and patient in trained):
            break
        for case_id in by_patient[patient]:
            try:
                part.append(cases.read(case_id))
            except CaseError as fault:
                unusable += 1
                log.warning("left out: %s", fault)
    needs = (config.test_cases, config.tuning_cases, config.labelled)
    if any(len(part) < need for part, need in zip(parts, needs, strict=True)):
        unknown = sum(len(ids) for patient, ids in by_patient.items() if patient not in trained)
        raise InputError(
            f"{len(cases.ids)} labelled cases, {unknown} of them unknown to the weights and {unusable} unusable, are "
            f"too few for "
            f"{needs[0]} to test, {needs[1]} to choose learning rates and {needs[2]} to learn from: add cases, or ask "
            "for fewer with --test-cases, --tuning-cases and --labelled"
        )
    for name, part in (("test", test), ("tuning", tuning)):
        if config.task == "lesions" and part and not any(case.label_ZYX.any() for case in part):
            raise InputError(
                f"none of the {len(part)} {name} cases ({shortened(case.id for case in part)}) has a lesion near the "
                f"gland; choose other ones with --seed, or more with --{name}-cases"
            )
    if len(pool) < config.seeds * config.labelled:
        log.warning(
            "%d labelled cases to learn from are too few for %d seeds of %d each without repeating any: the intervals "
            "do not cover other labelled cases; add cases, or ask for fewer with --labelled",
            len(pool), config.seeds, config.labelled,
        )  # fmt: skip
    return Split(tuple(test), tuple(tuning), tuple(pool), config.labelled)
