"""A raw data set for nnU-Net v2 with the six channels of pre-training, csPCa labels and the five folds.

``DatasetNNN_<name>/imagesTr/<case>_000{0..5}.nii.gz``, ``labelsTr/<case>.nii.gz``, ``dataset.json`` and
``splits_final.json``. Intensities are those that pre-training has seen, and nnU-Net is asked to leave them alone.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zssmnet.config import NnunetDatasetConfig
from zssmnet.data.archive import Case, patient_of, shortened, take_inventory
from zssmnet.data.examination import read_examination
from zssmnet.data.image_io import array_of, image_like, write_image
from zssmnet.data.splits import read_folds
from zssmnet.errors import ArchiveError, CaseError
from zssmnet.handoff.lesions import ISUP_GRADES, Labels, check_labelled, prepare_with_label, read_lesions
from zssmnet.handoff.network_input import CHANNEL_NAMES, input_CZYX
from zssmnet.preparation.resampling import grid_of
from zssmnet.storage import Address, LocalStorage, Storage, read_file
from zssmnet.storage.address import local_path
from zssmnet.storage.interface import Listed
from zssmnet.storage.ownership import check_ours

log = logging.getLogger(__name__)

FOLDS = 5
NO_NORMALISATION = "noNorm"
"""Name of a channel whose intensities nnU-Net leaves alone."""
_NEW = "imagesTs"
"""nnU-Net's folder of images to predict."""
_OURS = "zssmnet"
"""Entry of dataset.json by which a data set of this program is known."""
_LABELS: dict[Labels, dict[str, int]] = {
    "binary": {"background": 0, "csPCa": 1},
    "isup": {"background": 0} | {f"ISUP {grade}": label for label, grade in enumerate(ISUP_GRADES, 1)},
}


@dataclass(frozen=True)
class NnunetDataset:
    """A data set that was written.

    Attributes:
        folder: ``.../DatasetNNN_<name>``.
        with_lesion: how many of them have a lesion.
    """

    folder: Path
    cases: tuple[str, ...]
    with_lesion: int
    left_out: tuple[CaseError, ...]


def write_nnunet_dataset(
    images: Storage,
    zonal_masks: Storage,
    lesions: Storage,
    folder: Address,
    config: NnunetDatasetConfig = NnunetDatasetConfig(),
    on_case: Callable[[str], None] = lambda case_id: None,
) -> NnunetDataset:
    """Write a raw data set for nnU-Net v2.

    Args:
        images: an archive, see `take_inventory`.
        lesions: see `read_lesions`. A case without a file there is left out: nobody knows whether it has a lesion.
        folder: ``.../nnUNet_raw/DatasetNNN_<name>``; an earlier data set there is replaced.
        config: labels, volume and so on. Cases that its ``splits_path`` does not name are left out; without one, a
            hash of the patient decides on the fold.

    Raises:
        ArchiveError: no archive there, no case that can be used, or another data set in the folder.
        InputError: files in the folder that were not written here.
        SplitsError: a splits.json that is none.
        StorageError: the folder cannot be written.
    """
    output = LocalStorage(folder)
    is_ours = _is_ours(output, config.force)
    vals = read_folds(read_file(config.splits_path), config.splits_path) if config.splits_path else []
    fold_of = {case_id: fold for fold, val in enumerate(vals) for case_id in val}
    inventory = take_inventory(images, zonal_masks, config.archive_format)
    cases = [case for case in inventory.cases if not fold_of or case.id in fold_of]
    output.sweep()
    if not is_ours:
        _check_others(output, [case.id for case in cases], config.force)
        _publish_json(output, "dataset.json", _description(0, config))  # from now on it is known as ours
    writer = _Writer(images, zonal_masks, Listed(lesions), output, config, on_case)
    try:
        written, left_out = writer.write_all(cases, inventory.faults)
    except ArchiveError:
        if not is_ours:
            output.remove("dataset.json")
        raise
    for key in _others(output, written):
        output.remove(key)
        log.warning("%s: removed, as its case is no longer in the data set", output.where(key))
    _publish_json(output, "dataset.json", _description(len(written), config))
    _publish_json(output, "splits_final.json", _splits(sorted(written), fold_of, config.patient_pattern))
    return NnunetDataset(output.folder, tuple(sorted(written)), sum(written.values()), left_out)


def write_new_cases(
    images: Storage, zonal_masks: Storage, folder: Address, config: NnunetDatasetConfig, on_case: Callable[[str], None]
) -> NnunetDataset:
    """Write cases without labels to ``imagesTs``, prepared as those of the data set there, for ``nnUNetv2_predict``.

    Raises:
        ArchiveError: no archive there, no case that can be used, or no data set of `write_nnunet_dataset`.
    """
    output = LocalStorage(folder)
    if output.stat("dataset.json") is None or not _is_ours(output, force=False):
        raise ArchiveError(f"{output.folder}: no data set there; give the --output, --dataset and --name of training")
    try:
        known = {name: _noted(output)[name] for name in ("volume", "preparation")}
        config = NnunetDatasetConfig.model_validate(config.model_dump() | known)
    except (LookupError, ValueError) as error:
        reason = f"its entry {_OURS!r} does not say how cases were prepared; write the data set again"
        raise ArchiveError(f"{output.where('dataset.json')}: {reason}") from error
    inventory = take_inventory(images, zonal_masks, config.archive_format)
    writer = _Writer(images, zonal_masks, None, output, config, on_case)
    written, left_out = writer.write_all(inventory.cases, inventory.faults)
    return NnunetDataset(output.folder / _NEW, tuple(written), 0, left_out)


@dataclass(frozen=True)
class _Writer:
    """Where cases and their labels come from, and the data set that they go to; without labels they are predicted."""

    images: Storage
    zonal_masks: Storage
    lesions: Storage | None
    output: LocalStorage
    config: NnunetDatasetConfig
    on_case: Callable[[str], None]

    def write_all(
        self, cases: Sequence[Case], faults: Iterable[CaseError]
    ) -> tuple[dict[str, bool], tuple[CaseError, ...]]:
        """Write cases: whether each has a lesion, and those that cannot be used; ArchiveError if none can."""
        written, left_out = dict[str, bool](), [*faults]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for case, result in zip(cases, pool.map(self._tried, cases), strict=True):
                if isinstance(result, CaseError):
                    left_out.append(result)
                else:
                    written[case.id] = result
        for fault in left_out:
            log.warning("left out: %s", fault)
        if not written:
            reason = f"the first: {left_out[0]}" if left_out else "the splits name none of its cases"
            raise ArchiveError(f"{self.images.uri}: no case can be used; {reason}")
        return written, tuple(left_out)

    def _tried(self, case: Case) -> bool | CaseError:
        try:
            has_lesion = self._write(case)
        except CaseError as error:
            return error
        self.on_case(case.id)
        return has_lesion

    def _write(self, case: Case) -> bool:
        """Write a case's six channels and its label, if it has one; whether there is a lesion."""
        if self.lesions:
            check_labelled(case.id, self.lesions)
        examination = read_examination(case, self.images, self.zonal_masks)
        volumes, mask, preparation = examination.images, examination.mask, self.config.preparation
        label = read_lesions(case.id, self.lesions, examination, self.config.labels) if self.lesions else mask
        if self.config.volume == "cropped":
            preparation = preparation.model_copy(update={"spacing_mm": grid_of(examination.t2w).spacing})
        if self.config.volume != "native":
            prepared, label = prepare_with_label(case.id, examination, label, preparation)
            volumes, mask = prepared.images, prepared.mask
        folder = "imagesTr" if self.lesions else _NEW
        files: dict[str, npt.NDArray[Any]] = {
            f"{folder}/{case.id}_{number:04d}.nii.gz": channel
            for number, channel in enumerate(input_CZYX(volumes, mask))
        }
        if self.lesions:
            files[f"labelsTr/{case.id}.nii.gz"] = array_of(label).astype(np.uint8)
        for key, values_ZYX in files.items():
            with self.output.publishing(key) as path:
                write_image(image_like(np.ascontiguousarray(values_ZYX), mask), path)
        return bool(self.lesions and array_of(label).any())


def _publish_json(output: LocalStorage, key: str, content: object) -> None:
    output.publish_bytes(key, json.dumps(content, indent=1).encode() + b"\n")


def _noted(output: LocalStorage) -> dict[str, Any]:
    """What dataset.json says of how this program has made the data set; nothing if another one has."""
    try:
        noted = json.loads(output.read("dataset.json"))[_OURS]
    except (ValueError, LookupError, TypeError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _is_ours(output: LocalStorage, force: bool) -> bool:
    """Whether a data set that was written here lies there; that of another program is refused unless forced."""
    if output.stat("dataset.json") is None:
        return False
    is_ours = bool(_noted(output))
    if not (is_ours or force):
        raise ArchiveError(f"{output.folder}: holds a data set of another program; name another --dataset or --name")
    return is_ours


def _others(output: LocalStorage, case_ids: Iterable[str]) -> list[str]:
    """Files of other cases, which nnU-Net would count."""
    channels = range(len(CHANNEL_NAMES))
    ours = {
        f"{name}.nii.gz"
        for case_id in case_ids
        for name in (f"labelsTr/{case_id}", *(f"imagesTr/{case_id}_{channel:04d}" for channel in channels))
    }
    return sorted({one.key for folder in ("imagesTr", "labelsTr") for one in output.list(folder)} - ours)


def _check_others(output: LocalStorage, case_ids: Iterable[str], force: bool) -> None:
    """Refuse a folder with files that were not written here; those of these cases may be replaced if that is forced."""
    if others := _others(output, case_ids):
        raise ArchiveError(
            f"{output.folder}: holds {len(others)} files of other cases ({shortened(others)}), which nnU-Net would "
            "count; remove them, or name another --dataset or --name"
        )
    for key in (*_others(output, ()), "splits_final.json"):
        check_ours(output, key, lambda file: False, force)


def _description(count: int, config: NnunetDatasetConfig) -> dict[str, Any]:
    """nnU-Net's dataset.json."""
    return {
        "channel_names": {str(number): NO_NORMALISATION for number in range(len(CHANNEL_NAMES))},
        "labels": _LABELS[config.labels],
        "numTraining": count,
        "file_ending": ".nii.gz",
        _OURS: {
            "channels": CHANNEL_NAMES,
            "volume": config.volume,
            "preparation": config.preparation.model_dump(mode="json"),
        },
    }


def _splits(case_ids: Sequence[str], fold_of: Mapping[str, int], patient_pattern: str) -> list[dict[str, list[str]]]:
    """Training and validation cases of the five folds; without known folds a hash of the patient decides."""
    if not fold_of:
        digests = {id_: hashlib.sha256(patient_of(id_, patient_pattern).encode()).digest() for id_ in case_ids}
        fold_of = {case_id: int.from_bytes(digest[:8]) % FOLDS for case_id, digest in digests.items()}
    return [
        {
            "train": [case_id for case_id in case_ids if fold_of[case_id] != fold],
            "val": [case_id for case_id in case_ids if fold_of[case_id] == fold],
        }
        for fold in range(FOLDS)
    ]


def dataset_folder(raw: Address, config: NnunetDatasetConfig) -> Path:
    """The folder of a data set below ``nnUNet_raw``."""
    return local_path(raw) / f"Dataset{config.number:03d}_{config.name}"
