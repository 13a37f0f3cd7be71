"""Commands that need no Prefect: on what comes in (DICOM files, masks, uploading), and around the next step."""

import argparse
import itertools
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.exit_handling import say
from flows.settings import config_of
from zssmnet.config import (
    DicomConfig,
    EvaluationConfig,
    ExportConfig,
    MaskChecksConfig,
    NnunetDatasetConfig,
    PackageConfig,
    PreparationConfig,
    UploadConfig,
)
from zssmnet.errors import ConfigError, DicomError, InputError
from zssmnet.storage import folder_and_name, open_storage, read_file
from zssmnet.storage.address import S3, local_path
from zssmnet.storage.keys import printable
from zssmnet.storage.ownership import check_ours


def import_dicom(options: argparse.Namespace) -> None:
    """Import DICOM files.

    Raises:
        InputError: a file that was named cannot be used, or none of the studies makes a case.
    """
    config = config_of(DicomConfig, options)
    from zssmnet.data.case_ids import hashed_ids, table_of_ids
    from zssmnet.data.dicom_choice import read_overrides
    from zssmnet.data.dicom_import import TABLE, import_dicom

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if config.ids:
        ids = table_of_ids(read_file(config.ids), config.ids)
    else:
        ids = hashed_ids(_key(str(config.key_file), options.output))
    overrides = read_overrides(read_file(config.overrides), config.overrides) if config.overrides else {}
    archive = open_storage(options.output)
    with counter("files") as advance:
        done = import_dicom(local_path(config.dicom_path), archive, ids, config, overrides, advance)
    if done.passed_over:
        say("files passed over: " + ", ".join(f"{count} {reason}" for reason, count in done.passed_over.items()))
    if done.without_id:
        say(f"{done.without_id} studies have no line in the table of ids and are left out")
    say(f"{len(done.cases)} cases imported, {len(done.faults)} left out: {archive.uri} (why: {archive.where(TABLE)})")
    if not done.cases:
        first = "; ".join(f"{one.case_id}: {one.reason.partition('; ')[0]}" for one in done.faults[:3])
        raise DicomError(f"no study makes a case: {first} (all reasons: {archive.where(TABLE)})")


def check_masks(options: argparse.Namespace) -> None:
    """Check zonal masks; InputError if there are findings, or no masks."""
    config = config_of(MaskChecksConfig, options)
    from zssmnet.report.masks_page import PAGE, publish_masks_page

    output = open_storage(options.output)
    images = open_storage(config.images_path) if config.images_path else None
    with counter("masks") as advance:
        found = publish_masks_page(
            open_storage(config.zonal_mask_path), output, images, config.archive_format, advance, config.force
        )
    odd = [one for one in found if one.check.findings]
    for one in odd:
        say(printable(f"{one.case_id}: {'; '.join(one.check.findings)}"))
    if odd:
        raise InputError(f"{len(odd)} of {len(found)} masks have findings: look at {output.where(PAGE)}")
    say(f"{len(found)} masks, no findings: {output.where(PAGE)}")


def upload(options: argparse.Namespace) -> None:
    """Copy a folder to where the service reads it: what is new there, and the marker of new data last."""
    from zssmnet.storage.upload import send

    config = config_of(UploadConfig, options)
    source, target = open_storage(options.source), open_storage(options.output)
    if target.uri.startswith(S3):
        from zssmnet.storage.s3 import S3Storage, make_bucket

        if isinstance(target, S3Storage) and make_bucket(target.bucket):
            say(f"bucket {target.bucket} is made")
    with counter("files") as advance:
        entries, sent = send(source, target, config.force, advance)
    say(f"{len(entries)} files, {sum(entry.size for entry in entries):,} bytes: {target.uri}")
    if 0 < sent < len(entries):
        say(f"{sent} of them were new or had changed, and were sent")


def _key(file: str, archive: str) -> bytes:
    """The secret key, which must not lie in the archive, to be given away with it."""
    folder, name = folder_and_name(file)
    if f"{folder.uri}/".startswith(f"{open_storage(archive).uri}/"):
        raise DicomError(f"{file}: the key lies in the archive; keep it elsewhere, it links the new ids to the old")
    if folder.stat(name) is None:
        raise DicomError(f"{file}: no such file; make a key with: openssl rand -hex 32 > {file}")
    return folder.read(name).strip()


def nnunet_dataset(options: argparse.Namespace) -> None:
    """Write a raw data set for nnU-Net v2."""
    config = config_of(NnunetDatasetConfig, options)
    from zssmnet.handoff.nnunet_dataset import dataset_folder, write_nnunet_dataset

    if config.predict == bool(config.lesion_path):
        raise ConfigError("give --lesion_path, the labels to train with, or --predict, which takes none")
    folder = dataset_folder(local_path(options.output), config)
    if config.model:
        from zssmnet.handoff.weights import read_weights

        weights = read_weights(config.model)
        if not weights.spacing_mm:
            say(f"{weights.address}: no record of its cubes; cases are prepared as published")
        preparation = PreparationConfig(spacing_mm=weights.spacing_mm or PreparationConfig().spacing_mm)
        seen = {"preparation": preparation, "intensity_scaling": weights.intensity_scaling or "maximum"}
        config = config.model_copy(update=seen)
    images, masks = open_storage(options.images_path), open_storage(options.zonal_mask_path)
    with counter("cases") as advance:
        lesions = open_storage(config.lesion_path) if config.lesion_path else None
        done = write_nnunet_dataset(images, masks, lesions, folder, config, lambda case_id: advance())
    say(*(f"left out: {fault}" for fault in done.left_out))
    if config.predict:
        say(f"{len(done.cases)} cases to predict, {len(done.left_out)} left out: {done.folder}")
        return
    say(
        f"{len(done.cases)} cases, {done.with_lesion} with a lesion, {len(done.left_out)} left out: {done.folder}",
        f"after planning, copy {done.folder / 'splits_final.json'} to nnUNet_preprocessed/{done.folder.name}",
    )


def evaluate(options: argparse.Namespace) -> None:
    """Figures of detection, as the PI-CAI challenge defines them."""
    config = config_of(EvaluationConfig, options)
    from zssmnet.handoff.detection import evaluate_detection

    folder, name = folder_and_name(config.output or "figures.json")
    if config.output:
        check_ours(folder, name, lambda file: file.read_bytes().startswith(b'{"cases": '), config.force)
    found = evaluate_detection(options.predictions, options.labels)
    figures = {"cases": len(found.subject_list), "AP": float(found.AP), "AUROC": float(found.auroc)}
    if config.output:
        folder.publish_bytes(name, json.dumps(figures).replace("NaN", "null").encode() + b"\n")
    if (others := len([*local_path(options.labels).glob("*.nii.gz")]) - figures["cases"]) > 0:
        say(f"{others} labels have no prediction and do not count")
    auroc = "not defined: all cases, or none, have a lesion" if math.isnan(found.auroc) else f"{found.auroc:.3f}"
    say(f"{figures['cases']} cases: AP of lesions {found.AP:.3f}, AUROC of cases {auroc}")


def export(options: argparse.Namespace) -> None:
    """Write weights for nnU-Net."""
    config = config_of(ExportConfig, options)
    from zssmnet.handoff.export import export_nnunet_v1, export_nnunet_v2

    if config.to == "nnunet-v1" and config.classes:
        raise ConfigError("--classes makes heads for --to nnunet-v2 alone; nnunet-v1 makes its own")
    if config.to == "nnunet-v1":
        report = export_nnunet_v1(options.model, options.output, config.force)
        say(f"the published segmentation network will take {len(report.taken)} of its {report.total} tensors, no head")
    else:
        report = export_nnunet_v2(options.model, options.output, config.classes, config.force)
    say(str(report), options.output)


def package(options: argparse.Namespace) -> None:
    """Write weights as a package with a model card."""
    config = config_of(PackageConfig, options)
    from zssmnet.handoff.package import CARD, write_package

    folder = write_package(options.model, options.output, config)
    say(f"{folder}: read {Path(folder) / CARD}, and fill in the licence before you publish it")


@contextmanager
def counter(unit: str) -> Iterator[Callable[[], None]]:
    """Count, on standard error, the calls of what is yielded; silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    numbers = itertools.count(1)

    def advance() -> None:
        print(f"\r{next(numbers)} {unit}", end="", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
