"""Stage: from an archive to prepared cases, a part a case."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import override

from zssmnet.config import PICAI_PATIENT, ArchiveFormat, MaxWarnings, PreparationConfig, SplitMode, StrictConfig
from zssmnet.data.archive import Case, Inventory, shortened, take_inventory
from zssmnet.data.examination import read_files
from zssmnet.data.splits import VALIDATION_SUBSET, choose_subsets
from zssmnet.errors import CaseError, InputError
from zssmnet.preparation import prepare as preparing
from zssmnet.preparation.prepare import PreparedCase, PreparedVolumes
from zssmnet.registry.changes import Changes, find_changes, refresh_records
from zssmnet.report.archive_page import PAGE, publish_archive_page
from zssmnet.report.run_page import cases_section
from zssmnet.runner import PlainRunner, Runner, Summary
from zssmnet.storage import Address, Storage, open_storage
from zssmnet.storage.layout import reports_beside
from zssmnet.storage.lock import locked
from zssmnet.storage.sharing import check_outputs_visible, check_visible

log = logging.getLogger(__name__)

STAGE, PAGE_STAGE = "prepare", "page"
MOST_DESCRIBED = 500
"""Cases left out that one log line lists, since servers limit a line's length. The page has all."""
NO_LIMITS = StrictConfig()
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class PreparationSummary(Summary):
    """Outcome of preparing an archive.

    Attributes:
        left_out: reason and file of each case that cannot be used, by id.
        removed: number of cases of earlier runs that are no longer there.
        warnings: number of cases that are used and have warnings.
    """

    data_path: str
    prepared: int
    up_to_date: int
    left_out: dict[str, str]
    removed: int
    warnings: int

    @property
    def used(self) -> int:
        """Number of cases that can be used."""
        return self.prepared + self.up_to_date

    @property
    @override
    def outcome(self) -> tuple[str, str]:
        state = "Cases left out" if self.left_out else "With warnings" if self.warnings else "Completed"
        used = f"{self.used} of {self.used + len(self.left_out)} cases used"
        return state, f"{used}, {self.warnings} with warnings" if self.warnings else used

    @property
    def others(self) -> str:
        """Numbers of the cases that were not prepared just now, and of those with warnings."""
        counts = f"{self.up_to_date} up to date, {len(self.left_out)} left out"
        return f"{counts}, {self.warnings} with warnings" if self.warnings else counts


@dataclass(frozen=True)
class CaseToPrepare:
    """A part of this stage: one case, where its files are and where they go."""

    case: Case
    subset: int
    images_path: str
    zonal_mask_path: str
    output_path: str
    config: PreparationConfig

    def __str__(self) -> str:
        return f"prepare-{self.case.id}"


@dataclass(frozen=True)
class FoundArchive:
    """An archive's cases, those that cannot be used, their subsets, and where and how they are prepared."""

    images: Storage
    masks: Storage
    output: Storage
    config: PreparationConfig
    limits: StrictConfig
    inventory: Inventory
    subset_of: Mapping[str, int]

    def changes(self, weights: Storage | None = None) -> Changes:
        """Cases to prepare; given weights, also cases new to the published model."""
        folders = self.images, self.masks, self.output
        changes = find_changes(self.inventory.cases, self.subset_of, *folders, weights, self.config)
        log.info("%d cases are up to date, %d to prepare", len(changes.up_to_date), len(changes.to_prepare))
        return changes


def prepare_archive(
    images_path: Address,
    zonal_mask_path: Address,
    output_path: Address,
    config: PreparationConfig | None = None,
    *,
    splits_path: Address | None = None,
    split_mode: SplitMode | None = None,
    archive_format: ArchiveFormat | None = None,
    patient_pattern: str = PICAI_PATIENT,
    strict: bool = False,
    max_warnings: MaxWarnings = None,
    reports_path: Address | None = None,
    runner: Runner | None = None,
) -> PreparationSummary:
    """Prepare all cases of an archive: resample them to 0.5 x 0.5 x 3.0 mm, crop them to the gland plus 25 mm.

    Args:
        images_path: an nnU-Net raw, PI-CAI MHA or BIDS archive.
        zonal_mask_path: folder of zonal masks ``<case>.nii.gz``.
        output_path: where prepared cases go, in folders ``subset0`` to ``subset5`` (0-4 training, 5 validation).
        config: target spacing and margin around the gland, in mm; none: the published ones.
        splits_path: splits.json with five folds; without it subsets follow from a hash of the patient's id.
        split_mode: ``reference`` needs a splits.json, ``stable`` takes none; none: by ``splits_path``.
        archive_format: ``nnunet``, ``picai`` or ``bids``; none: detected automatically.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        strict: stop on any case that cannot be used or has a warning.
        max_warnings: stop where more cases have warnings; none: no limit, or 0 with ``strict``.
        reports_path: folder for the page of all cases; none: ``reports`` beside the prepared cases.
        runner: what runs the cases; none: threads of this process, one a core.

    Raises:
        ArchiveError: no archive there.
        InputError: no case can be used, or more cannot be used or have warnings than is allowed.
        LockedError: another run prepares cases there.
    """
    limits = StrictConfig(strict=strict, max_warnings=max_warnings)
    splits = splits_path, split_mode, patient_pattern
    archive = find_archive(images_path, zonal_mask_path, output_path, archive_format, splits, config, limits)
    with locked(archive.output):
        return prepare_cases(archive, archive.changes(), runner or PlainRunner(), reports_path)


def find_archive(
    images_path: Address,
    zonal_mask_path: Address,
    output_path: Address,
    archive_format: ArchiveFormat | None,
    splits: tuple[Address | None, SplitMode | None, str],
    config: PreparationConfig | None,
    limits: StrictConfig = NO_LIMITS,
) -> FoundArchive:
    """Find an archive's cases and decide on their subsets; errors as in `prepare_archive`.

    Args:
        splits: splits.json, split mode and patient pattern.
    """
    images, masks, output = map(open_storage, (images_path, zonal_mask_path, output_path))
    found = take_inventory(images, masks, archive_format)
    log.info("%s: %d cases with images and mask, %d without", images.uri, len(found.cases), len(found.faults))
    if not found.cases:
        _refuse_faults(found.faults, 0, limits)
    splits_path, split_mode, pattern = splits
    subset_of = choose_subsets([case.id for case in found.cases], splits_path, split_mode, pattern)
    return FoundArchive(images, masks, output, PreparationConfig.of(config), limits, found, subset_of)


def prepare_cases(
    archive: FoundArchive, changes: Changes, runner: Runner, reports_path: Address | None = None
) -> PreparationSummary:
    """Prepare what has changed in an archive; the caller has locked the folder of the prepared cases."""
    output, progress = archive.output, runner.progress
    reports = open_storage(reports_path or reports_beside(output.uri))
    refresh_records(output, changes.up_to_date)
    progress.begin(STAGE, len(changes.up_to_date) + len(changes.to_prepare), "cases")
    progress.advance(STAGE, len(changes.up_to_date), earlier=True)
    where = archive.images.uri, archive.masks.uri, output.uri, archive.config
    parts = [CaseToPrepare(case, archive.subset_of[case.id], *where) for case in changes.to_prepare]
    done, faults = map_cases(runner, STAGE, prepare_part, parts)
    records = sorted([*changes.up_to_date, *(record for record, _ in done)], key=lambda one: one.case_id)
    faults = sorted([*archive.inventory.faults, *faults], key=lambda one: one.case_id)
    new = sum(is_new for _, is_new in done)
    usable = {record.case_id for record in records}
    check_outputs_visible(output, usable)
    left_out = {fault.case_id: f"{fault.reason}: {fault.file}" for fault in faults}
    progress.begin(PAGE_STAGE, len(records), "cases")
    publish_archive_page(output, reports, records, list(left_out.items()), lambda: progress.advance(PAGE_STAGE))
    page = reports.where(PAGE)
    warnings = {record.case_id: record.warnings for record in records if record.warnings}
    progress.show("Cases", lambda: cases_section(len(records), left_out, warnings, page))
    _refuse_faults(faults, len(records), archive.limits)
    _refuse_warnings(warnings, len(records), archive.limits, page)
    if all(record.subset != VALIDATION_SUBSET for record in records):
        log.warning(
            "no case is in the validation subset 5, so pre-training cannot validate: add cases or a splits.json"
        )
    if removed := preparing.remove_stale(output, usable):
        log.warning(
            "%d cases of earlier runs are no longer there and are removed: %s", len(removed), shortened(removed)
        )
    output.sweep()  # what killed runs left half-written
    log.info("%d cases prepared, %d up to date, %d left out", new, len(records) - new, len(faults))
    return PreparationSummary(
        data_path=output.uri,
        prepared=new,
        up_to_date=len(records) - new,
        left_out=left_out,
        removed=len(removed),
        warnings=len(warnings),
    )


def map_cases(
    runner: Runner, stage: str, function: Callable[[ItemT], ResultT | CaseError], parts: Sequence[ItemT]
) -> tuple[list[ResultT], list[CaseError]]:
    """Run the parts of a stage, one a case, and show their progress; results, and errors of cases that are left out."""
    results, faults = list[ResultT](), list[CaseError]()
    with closing(runner.map(function, parts)) as done:
        for one in done:
            runner.progress.advance(stage)
            if isinstance(one, CaseError):
                faults.append(one)
            else:
                results.append(one)
    return results, faults


def prepare_part(part: CaseToPrepare) -> tuple[PreparedCase, bool] | CaseError:
    """Prepare one case; its record, and whether any work was done. One that cannot be used is returned as its error."""
    images, masks, output = (open_storage(path) for path in (part.images_path, part.zonal_mask_path, part.output_path))
    check_visible(images, masks)
    try:
        return preparing.publish_prepared(part.case, part.subset, images, masks, output, part.config)
    except CaseError as fault:
        log.warning("%s is left out: %s: %s", fault.case_id, fault.file, fault.reason)
        return fault


def prepare_case(images: Sequence[Address], mask: Address, config: PreparationConfig | None = None) -> PreparedVolumes:
    """Resample one case to the target spacing and crop it around the gland, in memory (Z-SSMNet, arXiv 2212.05808).

    Args:
        images: local files of T2W, ADC and DWI (high b-value): ``.nii.gz`` on one grid, or PI-CAI's ``.mha``, of which
            ADC and DWI are brought onto T2W's grid.
        mask: local file ``.nii.gz`` on T2W's grid, labels 0 background, 1 peripheral zone, 2 the rest of the gland.
        config: target spacing and margin around the gland, in mm; none: the published ones.

    Returns:
        Three float32 images and the mask, SimpleITK images on one grid (by default 0.5 x 0.5 x 3.0 mm in x, y, z).

    Raises:
        CaseError: a file that cannot be used; it names the file and the reason.
        InputError: not three images.
    """
    case_id, examination = read_files(images, mask)
    return preparing.prepare_volumes(case_id, examination, PreparationConfig.of(config))


def _refuse_faults(faults: Sequence[CaseError], usable: int, limits: StrictConfig) -> None:
    described = "; ".join(f"{one.case_id} ({one.file}: {one.reason})" for one in faults[:MOST_DESCRIBED])
    if len(faults) > MOST_DESCRIBED:
        described += f"; and {len(faults) - MOST_DESCRIBED} more"
    if faults and limits.strict:
        raise InputError(f"{len(faults)} of {len(faults) + usable} cases cannot be used: {described}")
    if not usable:
        raise InputError(f"none of {len(faults)} cases can be used: {described}")
    if faults:
        log.warning("%d of %d cases are left out: %s", len(faults), len(faults) + usable, described)


def _refuse_warnings(warnings: Mapping[str, Sequence[str]], used: int, limits: StrictConfig, page: str) -> None:
    most = limits.most_warnings
    if most is not None and len(warnings) > most:
        described = shortened((f"{case_id} ({'; '.join(found)})" for case_id, found in warnings.items()), 3)
        raise InputError(
            f"{len(warnings)} of {used} cases have warnings, more than {most}: {described}; look at {page}, "
            "then correct them, or allow them with --max-warnings"
        )
