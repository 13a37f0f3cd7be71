"""A raw data set for nnU-Net v2 with the six channels of pre-training, csPCa labels and the five folds.

``DatasetNNN_<name>/imagesTr/<case>_000{0..5}.nii.gz``, ``labelsTr/<case>.nii.gz``, ``dataset.json`` and
``splits_final.json``. Intensities are those that pre-training has seen, and nnU-Net is asked to leave them alone.
"""

import gzip
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zssmnet.config import NnunetDatasetConfig
from zssmnet.data.archive import Case, in_one_form, patient_of, shortened, take_inventory
from zssmnet.data.examination import read_examination
from zssmnet.data.image_io import array_of, image_like, write_image
from zssmnet.data.splits import read_folds
from zssmnet.errors import ArchiveError, CaseError, InputError
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
"""Entry of dataset.json, and note in the header of each image, by which those of this program are known."""
_END_OF_NOTE, _LONGEST_NOTE = 228, 80
"""Where NIfTI's header has its note (`descrip`), in bytes."""
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
    lesions: Storage | None,
    folder: Address,
    config: NnunetDatasetConfig = NnunetDatasetConfig(),
    on_case: Callable[[str], None] = lambda case_id: None,
) -> NnunetDataset:
    """Write a raw data set for nnU-Net v2, or new cases to predict into one.

    Args:
        images: an archive, see `take_inventory`.
        lesions: see `read_lesions`. A case without a file there is left out: nobody knows whether it has a lesion.
            None: the cases are written to ``imagesTs``, prepared as those of the data set there.
        folder: ``.../nnUNet_raw/DatasetNNN_<name>``; an earlier data set there is replaced.
        config: labels, volume and so on. Cases that its ``splits_path`` does not name are left out; without one, a
            hash of the patient decides on the fold.

    Raises:
        ArchiveError: no archive there, no case that can be used, another data set in the folder or of its number, or
            none to predict for.
        InputError: files in the folder that were not written here, or it lies in the archive.
        SplitsError: a splits.json that is none.
        StorageError: the folder cannot be written.
    """
    output = LocalStorage(folder)
    _check_place(output, images, zonal_masks)
    noted = _noted(output)
    config = _checked(output, noted, lesions is not None, config)
    fold_of = dict[str, int]()
    if config.splits_path and lesions:
        vals = read_folds(read_file(config.splits_path), config.splits_path)
        fold_of = {in_one_form(case_id): fold for fold, val in enumerate(vals) for case_id in val}
    inventory = take_inventory(images, zonal_masks, config.archive_format)
    cases = [case for case in inventory.cases if not fold_of or in_one_form(case.id) in fold_of]
    if unnamed := len(inventory.cases) - len(cases):
        log.warning("%d cases are not in %s and are left out", unnamed, config.splits_path)
    output.sweep()
    _check_files(output, [case.id for case in cases], lesions is not None, config.force)
    if lesions and not noted:
        check_ours(output, "splits_final.json", lambda file: False, config.force)
    labels = Listed(lesions) if lesions else None

    def write(case: Case) -> bool:
        has_lesion = _write_case(case, images, zonal_masks, labels, output, config)
        on_case(case.id)
        return has_lesion

    written, faults = _write_all(cases, write)
    left_out = (*inventory.faults, *faults)
    for fault in left_out:
        log.warning("left out: %s", fault)
    if not written:
        reason = f"the first: {left_out[0]}" if left_out else "the splits name none of its cases"
        raise ArchiveError(f"{images.uri}: no case can be used; {reason}")
    if lesions is None:
        return NnunetDataset(output.folder / _NEW, tuple(written), 0, left_out)
    for key in _others(output, written):
        output.remove(key)
        log.warning("%s: removed, as its case is no longer in the data set", output.where(key))
    _publish_json(output, "dataset.json", _description(len(written), config))
    _publish_json(output, "splits_final.json", _splits(sorted(written), fold_of, config.patient_pattern))
    return NnunetDataset(output.folder, tuple(sorted(written)), sum(written.values()), left_out)


def _check_place(output: LocalStorage, images: Storage, zonal_masks: Storage) -> None:
    """Refuse a folder in the archive, whose files the next run would take for its cases, or a number that is in use."""
    for archive in (images, zonal_masks):
        if f"{output.uri}/".startswith(f"{archive.uri.rstrip('/')}/"):
            raise InputError(f"{output.uri}: lies in the archive {archive.uri}; name an --output beside it")
    name = output.folder.name
    number = name.partition("_")[0]
    if others := sorted(one.name for one in output.folder.parent.glob(f"{number}_*") if one.name != name):
        reason = f"has {number} already ({shortened(others)}), and nnU-Net takes a number once"
        raise ArchiveError(f"{output.folder.parent}: {reason}; name another --dataset")


def _checked(
    output: LocalStorage, noted: dict[str, Any], labelled: bool, config: NnunetDatasetConfig
) -> NnunetDatasetConfig:
    """The settings as given, or for new cases those of the data set there; none of another program may be there."""
    if output.stat("dataset.json") and not (noted or (labelled and config.force)):
        raise ArchiveError(f"{output.folder}: holds a data set of another program; name another --dataset or --name")
    if labelled:
        return config
    if not noted:
        raise ArchiveError(f"{output.folder}: no data set there; give the --output, --dataset and --name of training")
    try:
        known = {name: noted[name] for name in ("volume", "preparation")}
        known["intensity_scaling"] = noted.get("intensity_scaling", "maximum")  # all that earlier versions knew
        return NnunetDatasetConfig.model_validate(config.model_dump() | known)
    except (LookupError, ValueError) as error:
        reason = f"its entry {_OURS!r} does not say how cases were prepared; write the data set again"
        raise ArchiveError(f"{output.where('dataset.json')}: {reason}") from error


def _write_all(cases: Sequence[Case], write: Callable[[Case], bool]) -> tuple[dict[str, bool], list[CaseError]]:
    """Write cases side by side: whether each has a lesion, and why others cannot be used."""

    def tried(case: Case) -> bool | CaseError:
        try:
            return write(case)
        except CaseError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip((case.id for case in cases), pool.map(tried, cases), strict=True))
    written = {case_id: one for case_id, one in found.items() if not isinstance(one, CaseError)}
    return written, [one for one in found.values() if isinstance(one, CaseError)]


def _write_case(
    case: Case,
    images: Storage,
    zonal_masks: Storage,
    lesions: Storage | None,
    output: LocalStorage,
    config: NnunetDatasetConfig,
) -> bool:
    """Write a case's six channels and its label, if it has one; whether there is a lesion."""
    if lesions:
        check_labelled(case.id, lesions)
    examination = read_examination(case, images, zonal_masks)
    volumes, mask, preparation = examination.images, examination.mask, config.preparation
    label = read_lesions(case.id, lesions, examination, config.labels) if lesions else mask
    if config.volume == "cropped":
        preparation = preparation.model_copy(update={"spacing_mm": grid_of(examination.t2w).spacing})
    if config.volume != "native":
        prepared, label = prepare_with_label(case.id, examination, label, preparation)
        volumes, mask = prepared.images, prepared.mask
    channels = input_CZYX(volumes, mask, config.intensity_scaling)
    arrays = [*channels, array_of(label).astype(np.uint8)]
    for key, values_ZYX in zip(_files(case.id, lesions is not None), arrays, strict=False):
        image = image_like(np.ascontiguousarray(values_ZYX), mask)
        image.SetMetaData("ITK_FileNotes", _OURS)
        with output.publishing(key) as path:
            write_image(image, path)
    return bool(lesions and array_of(label).any())


def _files(case_id: str, labelled: bool) -> list[str]:
    """Keys of a case's files: six channels, and the label if it has one."""
    images = [
        f"{'imagesTr' if labelled else _NEW}/{case_id}_{channel:04d}.nii.gz" for channel in range(len(CHANNEL_NAMES))
    ]
    return [*images, f"labelsTr/{case_id}.nii.gz"] if labelled else images


def _publish_json(output: LocalStorage, key: str, content: object) -> None:
    output.publish_bytes(key, json.dumps(content, indent=1).encode() + b"\n")


def _noted(output: LocalStorage) -> dict[str, Any]:
    """What dataset.json says of how this program has made the data set; nothing if another one has."""
    try:
        noted = json.loads(output.read("dataset.json"))[_OURS] if output.stat("dataset.json") else {}
    except (ValueError, LookupError, TypeError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _is_ours(file: Path) -> bool:
    """Whether an image's header has the note of this program."""
    try:
        with gzip.open(file) as stream:
            return stream.read(_END_OF_NOTE)[-_LONGEST_NOTE:].rstrip(b"\0") == _OURS.encode()
    except (OSError, EOFError, zlib.error):
        return False


def _others(output: LocalStorage, case_ids: Iterable[str]) -> list[str]:
    """Files of other cases, which nnU-Net would count."""
    ours = {key for case_id in case_ids for key in _files(case_id, labelled=True)}
    return sorted({one.key for folder in ("imagesTr", "labelsTr") for one in output.list(folder)} - ours)


def _check_files(output: LocalStorage, case_ids: Sequence[str], labelled: bool, force: bool) -> None:
    """Refuse a folder with files that were not written here; those of these cases may be replaced if that is forced."""
    others = [key for key in _others(output, case_ids) if not _is_ours(output.local(key))] if labelled else []
    if others:
        raise ArchiveError(
            f"{output.folder}: holds {len(others)} files of other cases ({shortened(others)}), which nnU-Net would "
            "count; remove them, or name another --dataset or --name"
        )
    for key in (key for case_id in case_ids for key in _files(case_id, labelled)):
        check_ours(output, key, _is_ours, force)


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
            "intensity_scaling": config.intensity_scaling,
            "preparation": config.preparation.model_dump(mode="json"),
        },
    }


def _splits(case_ids: Sequence[str], fold_of: Mapping[str, int], patient_pattern: str) -> list[dict[str, list[str]]]:
    """Training and validation cases of the five folds; without known folds a hash of the patient decides."""
    if not fold_of:
        digests = {id_: hashlib.sha256(patient_of(id_, patient_pattern).encode()).digest() for id_ in case_ids}
        fold_of = {in_one_form(case_id): int.from_bytes(digest[:8]) % FOLDS for case_id, digest in digests.items()}
    return [
        {
            "train": [case_id for case_id in case_ids if fold_of[in_one_form(case_id)] != fold],
            "val": [case_id for case_id in case_ids if fold_of[in_one_form(case_id)] == fold],
        }
        for fold in range(FOLDS)
    ]


def dataset_folder(raw: Address, config: NnunetDatasetConfig) -> Path:
    """The folder of a data set below ``nnUNet_raw``."""
    return local_path(raw) / f"Dataset{config.number:03d}_{config.name}"
