"""From a tree of DICOM files to an archive like PI-CAI's: ``<patient>/<patient>_<study>_{t2w,adc,hbv}.mha``.

The archive is de-identified: no file or folder names, ids, names, dates or free text of the source are copied. Images
are written from voxels and grid alone, the table of choices from numbers of series. New ids are keyed hashes, or come
from a table.
"""

import csv
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zssmnet.config import SeriesConfig
from zssmnet.data.archive import IMAGE_SUFFIXES, duplicated, shortened
from zssmnet.data.case_ids import CaseIds
from zssmnet.data.dicom_choice import Choice, Override, choose
from zssmnet.data.dicom_series import find_studies
from zssmnet.data.dicom_volume import compute_high_b, read_volume
from zssmnet.data.image_io import write_image
from zssmnet.errors import CaseError, DicomError
from zssmnet.storage import Storage
from zssmnet.storage.ownership import check_ours

log = logging.getLogger(__name__)

DEFAULT_CHOICE = SeriesConfig()
TABLE = "choices.csv"
"""Every series of every case: what it was recognised as, and why it was chosen or not."""
_COLUMNS: tuple[str, ...] = ("case", "series", "acquisition", "kind", "shows", "b", "slices", "columns", "rows")
_COLUMNS += ("x_mm", "y_mm", "z_mm", "chosen_as", "reason")


@dataclass(frozen=True)
class ImportSummary:
    """What came of an import."""

    cases: tuple[str, ...]
    faults: tuple[CaseError, ...]
    passed_over: Mapping[str, int]  # files that were not used, by reason
    without_id: int  # studies that the table of ids does not name


def import_dicom(
    folder: Path,
    archive: Storage,
    ids: CaseIds,
    config: SeriesConfig = DEFAULT_CHOICE,
    overrides: Mapping[str, Override] | None = None,
    advance: Callable[[], object] = lambda: None,
) -> ImportSummary:
    """Import all studies below a folder.

    Args:
        folder: DICOM files under any names, in any order; other files are skipped.
        archive: where the images and ``choices.csv`` go.
        overrides: manual choices, by case id.

    Raises:
        DicomError: no MR image there, ids that stand for several studies, or overrides of cases that are not there.
        InputError: files of others lie where ours would.
        StorageError: the archive cannot be written.
    """
    check_ours(archive, TABLE, lambda file: file.read_bytes().startswith(b"case,series,"))
    studies, passed_over = find_studies(folder, advance)
    if not studies:
        seen = ", ".join(f"{count} {reason}" for reason, count in passed_over.most_common(3))
        seen = seen or "it is empty, or is not there"
        raise DicomError(f"the folder of DICOM files holds no MR image ({seen}); name the folder of an export")
    named = [(case_id, study) for study in studies if (case_id := ids(study)) is not None]
    if twice := duplicated(case_id for case_id, _ in named):
        raise DicomError(
            f"{len(twice)} ids stand for several studies each: {shortened(twice)}; "
            "give each its own line in the table of ids, with the study's UID or date"
        )
    overrides = overrides or {}
    if unknown := sorted(set(overrides) - dict(named).keys()):
        raise DicomError(f"overrides of {len(unknown)} cases that are not there: {shortened(unknown)}")
    archive.sweep()
    choices: dict[str, Choice] = {}
    for case_id, study in sorted(dict(named).items()):
        choices[case_id] = choose(study, config, overrides.get(case_id))
        if study.note:
            log.warning("%s: %s", case_id, study.note)
    _publish_table(archive, choices)
    done: list[str] = []
    faults: list[CaseError] = []
    for case_id, choice in choices.items():
        try:
            _write(case_id, choice, archive)
            done.append(case_id)
        except CaseError as fault:
            log.warning("%s is left out: %s", case_id, fault.reason)
            faults.append(fault)
    return ImportSummary(tuple(done), tuple(faults), passed_over, len(studies) - len(named))


def _publish_table(archive: Storage, choices: Mapping[str, Choice]) -> None:
    """Publish the table before the images, so that they are known as ours; InputError where other files lie."""
    earlier = archive.read(TABLE).decode().splitlines() if archive.stat(TABLE) else []
    for case_id in choices.keys() - {row.partition(",")[0] for row in earlier}:
        for key in _keys(case_id):
            check_ours(archive, key, lambda file: False)
    table = io.StringIO()
    rows = (row for case_id, choice in choices.items() for row in _rows(case_id, choice))
    csv.writer(table, lineterminator="\n").writerows([_COLUMNS, *rows])
    archive.publish_bytes(TABLE, table.getvalue().encode())


def _keys(case_id: str) -> list[str]:
    return [f"{case_id.partition('_')[0]}/{case_id}{suffix}" for suffix in IMAGE_SUFFIXES["picai"]]


def _write(case_id: str, choice: Choice, archive: Storage) -> None:
    if choice.fault or not (choice.t2w and choice.adc and choice.dwi):
        raise CaseError(case_id, "DICOM", choice.fault)
    try:
        t2w, adc = read_volume(choice.t2w), read_volume(choice.adc)
        is_computed = choice.computed_b is not None
        dwi = compute_high_b(choice.dwi, choice.computed_b or 0.0) if is_computed else read_volume(choice.dwi[0])
    except DicomError as error:
        raise CaseError(case_id, "DICOM", str(error)) from error
    for key, image in zip(_keys(case_id), (t2w, adc, dwi), strict=True):
        with archive.publishing(key) as path:
            write_image(image, path)
    made = f"b {choice.computed_b:g} computed" if is_computed else choice.dwi[0].name
    log.info("%s: T2W %s, ADC %s, DWI %s", case_id, choice.t2w.name, choice.adc.name, made)


def _rows(case_id: str, choice: Choice) -> Iterator[tuple[object, ...]]:
    for stack, chosen_as, reason in choice.rows:
        first = stack.first
        b = "" if first.b is None or stack.role == "ADC" else f"{first.b:g}"
        what = first.number, first.acquisition or "", stack.kind, stack.role or "other", b
        spacing = (f"{step:.4g}" for step in stack.spacing_mm)
        yield case_id, *what, len(stack.slices), *first.shape, *spacing, chosen_as, reason
    if choice.fault:
        yield case_id, *[""] * (len(_COLUMNS) - 2), f"left out: {choice.fault}"
