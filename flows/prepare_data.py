"""Flow: from an archive to prepared cases, a task a case; in a large archive, a task for several."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from prefect import flow, unmapped
from prefect.futures import as_completed
from pydantic import BaseModel, Field

from flows.concurrency import chosen_runner
from flows.parameter_help import with_parameter_help
from flows.states import ended
from tasks.archive_page import archive_page
from tasks.case_table import show_table
from tasks.cases import Prepared, as_is, find_changes, inventory, prepare, subsets, tidy
from tasks.folders import alone_in, check_outputs_visible, check_valid_everywhere
from tasks.progress import display, shown_in_run
from tasks.run_control import ends_with_flow
from tasks.run_names import named_after
from zssmnet.config import (
    PICAI_PATIENT,
    CasesPerTask,
    FormatChoice,
    ImagesPath,
    MaskPath,
    MaxWarnings,
    PatientPattern,
    PreparationConfig,
    SplitModeChoice,
    SplitsPath,
    Strict,
    StrictConfig,
)
from zssmnet.data.archive import Case, Inventory, shortened
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.errors import CaseError, InputError
from zssmnet.preparation.prepare import PreparedCase
from zssmnet.registry.changes import Changes
from zssmnet.storage import open_storage
from zssmnet.storage.layout import reports_beside

log = logging.getLogger("zssmnet.flows")
STAGE = "prepare"
TASKS_AT_ONCE = 1000
"""Tasks that wait at the same time: memory does not grow with the archive."""
MOST_TASKS = 2000
"""Of a run, if the user does not choose otherwise: a server takes longer for a task than for a small case."""
MOST_DESCRIBED = 500
"""Cases that are left out, in a line: a server takes lines of limited length. The table and the page have more."""
NO_LIMITS = StrictConfig()

PreparationSettings = Annotated[
    PreparationConfig | None, Field(description="Resampling and cropping; none: the defaults")
]
"""A section of the run form, which is folded as long as there is none."""


class PreparationSummary(BaseModel):
    """What came of preparing an archive.

    Attributes:
        left_out: why cases could not be used, by their ids.
        warnings: number of cases that are used and odd.
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
    def state(self) -> str:
        """Name of the state in which a run ends that prepared these cases."""
        return "Cases left out" if self.left_out else "With warnings" if self.warnings else "Completed"

    @property
    def message(self) -> str:
        """Message of that state."""
        used = f"{self.used} of {self.used + len(self.left_out)} cases used"
        return f"{used}, {self.warnings} with warnings" if self.warnings else used

    @property
    def others(self) -> str:
        """Numbers of the cases that were not prepared just now, and of those with warnings."""
        counts = f"{self.up_to_date} up to date, {len(self.left_out)} left out"
        return f"{counts}, {self.warnings} with warnings" if self.warnings else counts


@flow(
    name="prepare-data",
    flow_run_name=named_after("output_path"),
    task_runner=chosen_runner(),
)
@with_parameter_help
def prepare_data(
    images_path: ImagesPath,
    zonal_mask_path: MaskPath,
    output_path: Annotated[str, Field(description="Folder for the prepared cases, SSL/data of a working root")],
    splits_path: SplitsPath = None,
    split_mode: SplitModeChoice = None,
    archive_format: FormatChoice = None,
    patient_pattern: PatientPattern = PICAI_PATIENT,
    strict: Strict = False,
    max_warnings: MaxWarnings = None,
    cases_per_task: CasesPerTask = None,
    config: PreparationSettings = None,
    reports_path: Annotated[
        str | None, Field(description="Folder for the page of all cases; none: reports beside the cases")
    ] = None,
) -> PreparationSummary:
    """Resample every case to 3.0 x 0.5 x 0.5 mm and crop it to the gland plus 25 mm."""
    check_valid_everywhere(images_path, zonal_mask_path, output_path, splits_path, reports_path)
    config = config or PreparationConfig()
    limits = StrictConfig(strict=strict, max_warnings=max_warnings)
    found = inventory(images_path, zonal_mask_path, archive_format)
    if not found.cases:
        _refuse_faults(found.faults, 0, limits)
    subset_of = subsets(as_is([case.id for case in found.cases]), splits_path, split_mode, patient_pattern)
    with alone_in(output_path):
        changes = find_changes(
            as_is(found.cases), as_is(subset_of), images_path, zonal_mask_path, output_path, None, config
        )
        folders = images_path, zonal_mask_path, output_path
        done = prepare_cases(found, subset_of, changes, *folders, config, limits, reports_path, cases_per_task)
    return ended(done, done.state, done.message)


def prepare_cases(
    found: Inventory,
    subset_of: Mapping[str, int],
    changes: Changes,
    images_path: str,
    zonal_mask_path: str,
    output_path: str,
    config: PreparationConfig,
    limits: StrictConfig = NO_LIMITS,
    reports_path: str | None = None,
    cases_per_task: int | None = None,
) -> PreparationSummary:
    """Prepare what has changed in an archive, as tasks of the present run; the folder is locked by it.

    Args:
        found: the archive's cases, and those that cannot be used.
        subset_of: the subset of each case.
        changes: what is to be prepared, and what is up to date.
        images_path, zonal_mask_path, output_path: the folders.
        config: how cases are prepared.
        limits: when cases that are left out, or have warnings, fail the run.
        reports_path: folder for the page of all cases; none: reports beside the cases.
        cases_per_task: how many cases a task prepares; none: one, if that does not make too many tasks.

    Raises:
        InputError: no case can be used, or more are left out or have warnings than ``limits`` allow.
    """
    prepared: list[Prepared] = [(record, False) for record in changes.up_to_date]
    faults = list(found.faults)
    parts = _divided(changes.to_prepare, cases_per_task)
    with shown_in_run(), ends_with_flow():
        shown = display()
        shown.begin(STAGE, len(changes.up_to_date) + len(changes.to_prepare), "cases")
        shown.advance(STAGE, len(changes.up_to_date), earlier=True)
        for start in range(0, len(parts), TASKS_AT_ONCE):
            cases = parts[start : start + TASKS_AT_ONCE]
            futures = prepare.map(
                cases,
                [[subset_of[case.id] for case in part] for part in cases],
                images_path=images_path,
                zonal_mask_path=zonal_mask_path,
                output_path=output_path,
                config=unmapped(config),
            )
            for future in as_completed(futures):
                done = future.result()
                faults += [one for one in done if isinstance(one, CaseError)]
                prepared += [one for one in done if not isinstance(one, CaseError)]
                shown.advance(STAGE, len(done))
    prepared.sort(key=lambda one: one[0].case_id)
    faults.sort(key=lambda fault: fault.case_id)
    usable = [record.case_id for record, _ in prepared]
    check_outputs_visible(open_storage(output_path), usable)
    show_table(faults, prepared, subset_of)
    records = [record for record, _ in prepared]
    reasons = [(one.case_id, f"{one.reason}: {one.file}") for one in faults]
    is_new = bool(changes.to_prepare or changes.gone)
    page = archive_page(
        output_path, reports_path or reports_beside(output_path), as_is(records), as_is(reasons), is_new
    )
    _refuse_faults(faults, len(prepared), limits)
    _refuse_warnings(records, limits, page)
    if all(record.subset != VALIDATION_SUBSET for record, _ in prepared):
        log.warning(
            "no case is in the validation subset 5, so pre-training cannot validate: add cases or a splits.json"
        )
    removed = tidy(output_path, as_is(usable))
    new = sum(is_new for _, is_new in prepared)
    log.info("%d cases prepared, %d up to date, %d left out", new, len(prepared) - new, len(faults))
    return PreparationSummary(
        data_path=output_path,
        prepared=new,
        up_to_date=len(prepared) - new,
        left_out={fault.case_id: fault.reason for fault in faults},
        removed=len(removed),
        warnings=sum(bool(record.warnings) for record, _ in prepared),
    )


def _divided(cases: Sequence[Case], each: int | None) -> list[Sequence[Case]]:
    """Cases as tasks take them, so many each."""
    each = each or math.ceil(len(cases) / MOST_TASKS) or 1
    return [cases[start : start + each] for start in range(0, len(cases), each)]


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


def _refuse_warnings(records: Sequence[PreparedCase], limits: StrictConfig, page: str) -> None:
    odd = [f"{record.case_id} ({'; '.join(record.warnings)})" for record in records if record.warnings]
    most = limits.most_warnings
    if most is not None and len(odd) > most:
        raise InputError(
            f"{len(odd)} of {len(records)} cases have warnings, more than {most}: {shortened(odd, 3)}; look at {page}, "
            "then mend them, or allow them with --max-warnings"
        )
