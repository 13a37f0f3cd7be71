"""Flow: from an archive to prepared cases, a task a case."""

import logging
from typing import Annotated

from prefect import flow, unmapped
from prefect.artifacts import create_table_artifact
from prefect.futures import as_completed
from pydantic import BaseModel, Field

from flows.concurrency import chosen_runner
from flows.parameter_help import with_parameter_help
from tasks.cases import CaseOutcome, inventory, left_out, look_for_news, prepare, subsets, tidy, up_to_date
from tasks.locking import alone_in
from tasks.markdown import text
from tasks.progress import display, shown_in_run
from tasks.shared_storage import check_arrived
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import PICAI_PATIENT, ArchiveFormat
from zssmnet.data.splits import VALIDATION_SUBSET, SplitMode
from zssmnet.errors import InputError
from zssmnet.storage import open_storage

log = logging.getLogger("zssmnet.flows")
STAGE = "prepare"

ImagesPath = Annotated[
    str,
    Field(
        min_length=1, description="Folder or s3://bucket/prefix of an nnU-Net raw archive or of PI-CAI's MHA archive"
    ),
]
MaskPath = Annotated[str, Field(min_length=1, description="Folder or s3://bucket/prefix of zonal masks, CASE.nii.gz")]
SplitsPath = Annotated[str | None, Field(description="splits.json with five folds; none: subsets by patient hash")]
SplitModeChoice = Annotated[
    SplitMode | None, Field(description="reference: as published, needs splits.json; stable: by a hash of the patient")
]
FormatChoice = Annotated[ArchiveFormat | None, Field(description="Kind of archive; none: recognised by itself")]
PatientPattern = Annotated[
    str, Field(description="Regular expression whose group 'patient' names a case's patient; no match: the whole id")
]
Strict = Annotated[bool, Field(description="Fail if any case cannot be used, instead of leaving it out")]
PreparationSettings = Annotated[PreparationConfig, Field(description="Resampling and cropping")]


class PreparationSummary(BaseModel):
    """What came of preparing an archive."""

    data_path: str
    prepared: int
    up_to_date: int
    unusable: list[str]
    removed: int
    warnings: int

    @property
    def left_out(self) -> int:
        """Number of cases that could not be used."""
        return len(self.unusable)


@flow(
    name="prepare-data",
    flow_run_name="prepare-data {output_path}",
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
    config: PreparationSettings = PreparationConfig(),
) -> PreparationSummary:
    """Resample every case to 3.0 x 0.5 x 0.5 mm and crop it to the gland plus 25 mm."""
    found = inventory(images_path, zonal_mask_path, archive_format)
    if not found.cases:
        _refuse_faults([left_out(fault) for fault in found.faults], [], strict)
    subset_of = subsets([case.id for case in found.cases], splits_path, split_mode, patient_pattern)
    with alone_in(output_path):
        news = look_for_news(found.cases, subset_of, images_path, zonal_mask_path, output_path, None, config)
        outcomes = [left_out(fault) for fault in found.faults] + [up_to_date(record) for record in news.up_to_date]
        with shown_in_run():
            shown = display()
            shown.begin(STAGE, len(news.up_to_date) + len(news.to_prepare), "cases")
            shown.skip(STAGE, len(news.up_to_date))
            futures = prepare.map(
                news.to_prepare,
                [subset_of[case.id] for case in news.to_prepare],
                images_path=images_path,
                zonal_mask_path=zonal_mask_path,
                output_path=output_path,
                config=unmapped(config),
            )
            for future in as_completed(futures):
                outcomes.append(future.result())
                shown.advance(STAGE)
        outcomes.sort(key=lambda outcome: outcome.case_id)
        usable = [outcome for outcome in outcomes if outcome.reason is None]
        check_arrived(open_storage(output_path), [outcome.case_id for outcome in usable])
        _show_table(outcomes)
        _refuse_faults(outcomes, usable, strict)
        if all(outcome.subset != VALIDATION_SUBSET for outcome in usable):
            log.warning(
                "no case is in the validation subset 5, so pre-training cannot validate: add cases or a splits.json"
            )
        removed = tidy(output_path, [outcome.case_id for outcome in usable])
    new = sum(outcome.is_new for outcome in usable)
    log.info("%d cases prepared, %d up to date, %d left out", new, len(usable) - new, len(outcomes) - len(usable))
    return PreparationSummary(
        data_path=output_path,
        prepared=new,
        up_to_date=len(usable) - new,
        unusable=[outcome.case_id for outcome in outcomes if outcome.reason is not None],
        removed=len(removed),
        warnings=sum(bool(outcome.warnings) for outcome in usable),
    )


def _refuse_faults(outcomes: list[CaseOutcome], usable: list[CaseOutcome], strict: bool) -> None:
    faults = [f"{one.case_id} ({one.file}: {one.reason})" for one in outcomes if one.reason is not None]
    if faults and strict:
        raise InputError(f"{len(faults)} of {len(outcomes)} cases cannot be used: {'; '.join(faults)}")
    if not usable:
        raise InputError(f"none of {len(outcomes)} cases can be used: {'; '.join(faults)}")
    if faults:
        log.warning("%d of %d cases are left out: %s", len(faults), len(outcomes), "; ".join(faults))


def _show_table(outcomes: list[CaseOutcome]) -> None:
    create_table_artifact(
        key="cases",
        table=[_row(outcome) for outcome in outcomes],
        description="All cases: subset (0-4 training, 5 validation), size in voxels before and after, what is odd.",
    )


def _row(outcome: CaseOutcome) -> dict[str, str]:
    return {
        "case": text(outcome.case_id),
        "subset": "" if outcome.subset is None else str(outcome.subset),
        "state": "left out" if outcome.reason else ("prepared" if outcome.is_new else "up to date"),
        "before": _voxels(outcome.size_before),
        "after": _voxels(outcome.size_after),
        "remarks": text(f"{outcome.file}: {outcome.reason}" if outcome.reason else "; ".join(outcome.warnings)),
    }


def _voxels(size: tuple[int, int, int] | None) -> str:
    return " x ".join(map(str, size)) if size else ""
