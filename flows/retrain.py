"""Flow: retraining when there are enough new data; the published model stays unless the new one is better."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameter_help import HandOffChoice, PreparationSettings, WorkingRoot, with_parameter_help
from flows.states import ended
from tasks.announcement import announce
from tasks.folders import check_valid_everywhere, given
from tasks.hand_off import HERE
from tasks.run_control import ends_cancelled
from tasks.run_names import named_after
from tasks.runner import flow_runner, task_runner
from zssmnet.config import (
    PICAI_PATIENT,
    CasesPerTask,
    ChallengerConfig,
    CubesConfig,
    FormatChoice,
    ImagesPath,
    MarginPercent,
    MaskPath,
    MinNewCases,
    PatientPattern,
    SplitModeChoice,
    SplitsPath,
)
from zssmnet.stages.retrain import DEFAULTS, RetrainingSummary, retrain
from zssmnet.storage import open_storage
from zssmnet.storage.layout import Layout


@flow(name="retrain-on-new-data", flow_run_name=named_after("root"), task_runner=task_runner())
@with_parameter_help
@ends_cancelled
def retrain_on_new_data(
    images_path: ImagesPath | None = None,
    zonal_mask_path: MaskPath | None = None,
    root: WorkingRoot | None = None,
    min_new_cases: MinNewCases = DEFAULTS.min_new_cases,
    margin_percent: MarginPercent = DEFAULTS.margin_percent,
    splits_path: SplitsPath = None,
    split_mode: SplitModeChoice = None,
    archive_format: FormatChoice = None,
    patient_pattern: PatientPattern = PICAI_PATIENT,
    cases_per_task: CasesPerTask = None,
    preparation: PreparationSettings = None,
    cubes: Annotated[
        CubesConfig | None, Field(description="Number, size, dtype and seed of the cubes; none: as before")
    ] = None,
    pretraining: Annotated[
        ChallengerConfig | None,
        Field(description="The challenger's budget; the default network stands for the published model's"),
    ] = None,
    hand_off: HandOffChoice = HERE,
) -> RetrainingSummary:
    """Train on from the published model when there are enough new cases; publish what comes out if it is better."""
    images_path, zonal_mask_path, root = given(images_path=images_path, zonal_mask_path=zonal_mask_path, root=root)
    check_valid_everywhere(images_path, zonal_mask_path, root, splits_path, elsewhere=bool(hand_off.deployment))
    with flow_runner(hand_off, cases_per_task) as runner:
        done = retrain(
            images_path,
            zonal_mask_path,
            root,
            min_new_cases=min_new_cases,
            margin_percent=margin_percent,
            splits_path=splits_path,
            split_mode=split_mode,
            archive_format=archive_format,
            patient_pattern=patient_pattern,
            preparation=preparation,
            cubes=cubes,
            pretraining=pretraining,
            runner=runner,
        )
    announce(open_storage(Layout(root).weights), "challenge")  # also what a run that was killed did not come to
    return ended(done, done.outcome, done.decision)
