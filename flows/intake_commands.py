"""Commands on what comes in: importing DICOM files, checking masks, uploading. They need no Prefect."""

import argparse
import logging
import shutil
import sys
from pathlib import Path

from flows.counter import counter
from flows.ends import say
from flows.settings import validated, with_flags
from zssmnet.config import DicomConfig, MaskChecksConfig
from zssmnet.errors import DicomError, InputError
from zssmnet.storage import open_storage, read_file
from zssmnet.storage.keys import printable


def import_dicom(options: argparse.Namespace) -> None:
    """Import DICOM files.

    Raises:
        InputError: a file that was named cannot be used, or none of the studies makes a case.
    """
    config = validated(DicomConfig, with_flags(DicomConfig, {}, options))
    from zssmnet.data.dicom_choice import read_overrides
    from zssmnet.data.dicom_ids import hashed_ids, table_of_ids
    from zssmnet.data.dicom_import import TABLE, import_dicom

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if config.ids:
        ids = table_of_ids(read_file(config.ids), config.ids)
    else:
        ids = hashed_ids(_key(str(config.key_file), options.output))
    overrides = read_overrides(read_file(config.overrides), config.overrides) if config.overrides else {}
    archive = open_storage(options.output)
    with counter("files") as advance:
        done = import_dicom(Path(config.dicom_path), archive, ids, config, overrides, advance)
    if done.passed_over:
        say("files passed over: " + ", ".join(f"{count} {reason}" for reason, count in done.passed_over.items()))
    if done.without_id:
        say(f"{done.without_id} studies have no line in the table of ids and are left out")
    say(f"{len(done.cases)} cases imported, {len(done.faults)} left out: {archive.uri} (why: {archive.where(TABLE)})")
    if not done.cases:
        raise DicomError(
            "no study makes a case: " + "; ".join(f"{one.case_id}: {one.reason}" for one in done.faults[:3])
        )


def check_masks(options: argparse.Namespace) -> None:
    """Check zonal masks.

    Raises:
        InputError: there are findings, or no masks.
    """
    config = validated(MaskChecksConfig, with_flags(MaskChecksConfig, {}, options))
    from zssmnet.report.masks_page import PAGE, publish_masks_page

    output = open_storage(options.output)
    images = open_storage(config.images_path) if config.images_path else None
    with counter("masks") as advance:
        found = publish_masks_page(open_storage(config.zonal_mask_path), output, images, config.archive_format, advance)
    odd = [one for one in found if one.check.findings]
    for one in odd:
        say(printable(f"{one.case_id}: {'; '.join(one.check.findings)}"))
    if odd:
        raise InputError(f"{len(odd)} of {len(found)} masks have findings: look at {output.where(PAGE)}")
    say(f"{len(found)} masks, no findings: {output.where(PAGE)}")


def upload(options: argparse.Namespace) -> None:
    """Copy a folder to where the service reads it."""
    from zssmnet.storage.s3 import make_bucket

    source, target = open_storage(options.source), open_storage(options.output)
    if target.uri.startswith("s3://") and make_bucket(bucket := target.uri.split("/")[2]):
        say(f"bucket {bucket} is made")
    entries = list(source.list())
    if not entries:
        raise InputError(f"{source.uri}: no files there")
    with counter("files") as advance:
        for entry in entries:
            with target.publishing(entry.key) as path:
                shutil.copyfile(source.local(entry.key), path)
            advance()
    say(f"{len(entries)} files, {sum(entry.size for entry in entries):,} bytes: {target.uri}")


def _key(file: str, archive: str) -> bytes:
    """The secret key, which must not lie in the archive, to be given away with it."""
    if Path(file).absolute().is_relative_to(Path(archive).absolute()):
        raise DicomError(f"{file}: the key lies in the archive; keep it elsewhere, it links the new ids to the old")
    return read_file(file).strip()
