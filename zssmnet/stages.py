"""The stages as functions of paths, for notebooks and scripts: no Prefect, no command line.

Each reads what the stage before has published and publishes its own files, with records; what is up to date is not
done again. Paths are local folders or ``s3://bucket/prefix``.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig
from zssmnet.data.archive import PICAI_PATIENT, ArchiveFormat, Case, take_inventory
from zssmnet.data.examination import read_examination
from zssmnet.data.splits import SUBSETS, choose_subsets
from zssmnet.errors import CaseError, InputError
from zssmnet.preparation import cubes as cutting
from zssmnet.preparation import prepare as preparing
from zssmnet.preparation.cubes import SubsetCubes
from zssmnet.preparation.prepare import PreparedCase, PreparedVolumes
from zssmnet.registry import pretraining
from zssmnet.registry.versions import PretrainedModel
from zssmnet.storage import LocalStorage, open_storage
from zssmnet.storage.lock import locked
from zssmnet.training.fit import OnEpoch

log = logging.getLogger(__name__)

Address = str | os.PathLike[str]


@dataclass(frozen=True)
class PreparedArchive:
    """What came of preparing an archive.

    Attributes:
        cases: records of the prepared cases, sorted by id.
        left_out: cases that cannot be used; each names its file and the reason.
    """

    cases: tuple[PreparedCase, ...]
    left_out: tuple[CaseError, ...]


def prepare_case(
    images: Sequence[Address], mask: Address, config: PreparationConfig = PreparationConfig()
) -> PreparedVolumes:
    """Resample one case to the target spacing and crop it around the gland, in memory (Z-SSMNet, arXiv 2212.05808).

    Args:
        images: local files of T2W, ADC and DWI (high b-value): ``.nii.gz`` on one grid, or PI-CAI's ``.mha``, of which
            ADC and DWI are brought onto T2W's grid.
        mask: local file ``.nii.gz`` on T2W's grid, labels 0 background, 1 peripheral zone, 2 the rest of the gland.
        config: target spacing and margin around the gland, in mm.

    Returns:
        Three float32 images and the mask, SimpleITK images on one grid (by default 3.0 x 0.5 x 0.5 mm in z, y, x).

    Raises:
        CaseError: a file that cannot be used; it names the file and the reason.
        InputError: not three images.
    """
    if len(images) != 3:
        raise InputError(f"{len(images)} images were given; a case has three: T2W, ADC, DWI")
    files = [Path(image).resolve() for image in images]
    root = LocalStorage(os.path.commonpath([file.parent for file in files]))
    t2w, adc, dwi = (file.relative_to(root.uri).as_posix() for file in files)
    mask = Path(mask).resolve()
    case_id = mask.name.removesuffix(".nii.gz")
    archive_format: ArchiveFormat = "picai" if t2w.endswith(".mha") else "nnunet"
    examination = read_examination(
        Case(case_id, archive_format, (t2w, adc, dwi), mask.name), root, LocalStorage(mask.parent)
    )
    return preparing.prepare_volumes(case_id, examination, config)


def prepare_archive(
    images_path: Address,
    mask_path: Address,
    output_path: Address,
    config: PreparationConfig = PreparationConfig(),
    splits_path: str | None = None,
    patient_pattern: str = PICAI_PATIENT,
    on_case: Callable[[str], None] = lambda case_id: None,
) -> PreparedArchive:
    """Prepare all cases of an archive, one after the other.

    Args:
        images_path: an nnU-Net raw archive, or PI-CAI's MHA archive.
        mask_path: folder of zonal masks ``<case>.nii.gz``.
        output_path: where prepared cases go, in folders ``subset0`` to ``subset5`` (0-4 training, 5 validation).
        config: target spacing and margin around the gland, in mm.
        splits_path: splits.json with five folds; without it subsets follow from a hash of the patient's id.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        on_case: called with the id of each case that is done or left out.

    Raises:
        ArchiveError: no archive there.
        InputError: no case can be used.
        LockedError: another run prepares cases there.
    """
    images, masks, output = (open_storage(path) for path in (images_path, mask_path, output_path))
    found = take_inventory(images, masks)
    subset_of = choose_subsets([case.id for case in found.cases], splits_path, patient_pattern=patient_pattern)
    prepared, left_out = list[PreparedCase](), list(found.faults)
    with locked(output):
        for case in found.cases:
            if case.id not in subset_of:
                continue
            try:
                record, _ = preparing.publish_prepared(case, subset_of[case.id], images, masks, output, config)
                prepared.append(record)
            except CaseError as fault:
                log.warning("%s is left out: %s: %s", fault.case_id, fault.file, fault.reason)
                left_out.append(fault)
            on_case(case.id)
        if not prepared:
            raise InputError(
                f"{images.uri}: none of {len(left_out)} cases can be used: {'; '.join(map(str, left_out))}"
            )
        preparing.remove_stale(output, {record.case_id for record in prepared})
    return PreparedArchive(tuple(prepared), tuple(left_out))


def generate_cubes(
    data_path: Address, output_path: Address, config: CubesConfig = CubesConfig()
) -> tuple[SubsetCubes, ...]:
    """Cut random cubes from all prepared cases, a file a subset: ``bat_<N>_s_<X>x<Y>x<Z>_<subset>.npy``.

    Args:
        data_path: prepared cases, in folders ``subset0`` to ``subset5``.
        output_path: where the files of cubes go, axes (cube, channel, x, y, z).
        config: number a case, size (x, y, z) in voxels, dtype and seed.

    Returns:
        The records of the six files.

    Raises:
        CaseError: a prepared case is incomplete or unreadable.
        InputError: there is no prepared case.
        LockedError: another run cuts cubes there.
    """
    data, output = open_storage(data_path), open_storage(output_path)
    cutting.check_prepared(data)
    with locked(output):
        records = tuple(cutting.cut_subset(subset, data, output, config)[0] for subset in SUBSETS)
        cutting.remove_other_sets(output, config)
    return records


def pretrain(
    cubes_path: Address,
    output_path: Address,
    config: PretrainConfig = PretrainConfig(),
    on_epoch: OnEpoch = lambda state: None,
) -> PretrainedModel:
    """Train MNet to restore corrupted cubes and publish the best model as ``ssl_mnet_zonal.model``.

    An interrupted training continues from its last checkpoint; a finished one is not done again.

    Args:
        cubes_path: the six files of cubes.
        output_path: where weights, versions, checkpoints and TensorBoard logs go.
        config: network, corruption and training recipe.
        on_epoch: called after each epoch with the state of the training.

    Returns:
        The model's record: losses of all epochs, the best epoch, where the weights are.

    Raises:
        CubesError: cubes that cannot be used.
        TrainingError: training that cannot go on.
        LockedError: another run trains there.
    """
    return pretraining.pretrain(open_storage(cubes_path), open_storage(output_path), config, on_epoch)[0]
