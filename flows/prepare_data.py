"""Flow: from an archive to prepared cases, a task a case; in a large archive, a task for several."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameter_help import PreparationSettings, with_parameter_help
from flows.states import ended, state_after
from tasks.folders import check_valid_everywhere
from tasks.run_control import ends_cancelled
from tasks.run_names import named_after
from tasks.runner import flow_runner, task_runner
from zssmnet.config import (
    PICAI_PATIENT,
    CasesPerTask,
    FormatChoice,
    ImagesPath,
    MaskPath,
    MaxWarnings,
    PatientPattern,
    SplitModeChoice,
    SplitsPath,
    Strict,
)
from zssmnet.stages.prepare import PreparationSummary, prepare_archive


@flow(name="prepare-data", flow_run_name=named_after("output_path"), task_runner=task_runner())
@with_parameter_help
@ends_cancelled
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
    with flow_runner(parts_per_task=cases_per_task) as runner:
        done = prepare_archive(
            images_path,
            zonal_mask_path,
            output_path,
            config,
            splits_path=splits_path,
            split_mode=split_mode,
            archive_format=archive_format,
            patient_pattern=patient_pattern,
            strict=strict,
            max_warnings=max_warnings,
            reports_path=reports_path,
            runner=runner,
        )
    return ended(done, *state_after(done))
