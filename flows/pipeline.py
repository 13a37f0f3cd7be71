"""Flow: the whole, from an archive to pre-trained weights."""

from prefect import flow

from flows.parameter_help import (
    CubesSettings,
    HandOffChoice,
    PreparationSettings,
    PretrainSettings,
    WorkingRoot,
    with_parameter_help,
)
from flows.states import ended, state_after
from tasks.folders import check_valid_everywhere
from tasks.hand_off import HERE
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
from zssmnet.stages.pipeline import PipelineSummary, run_pipeline


@flow(name="ssl-pretraining", flow_run_name=named_after("root"), task_runner=task_runner())
@with_parameter_help
@ends_cancelled
def ssl_pretraining(
    images_path: ImagesPath,
    zonal_mask_path: MaskPath,
    root: WorkingRoot,
    splits_path: SplitsPath = None,
    split_mode: SplitModeChoice = None,
    archive_format: FormatChoice = None,
    patient_pattern: PatientPattern = PICAI_PATIENT,
    strict: Strict = False,
    max_warnings: MaxWarnings = None,
    cases_per_task: CasesPerTask = None,
    preparation: PreparationSettings = None,
    cubes: CubesSettings = None,
    pretraining: PretrainSettings = None,
    hand_off: HandOffChoice = HERE,
) -> PipelineSummary:
    """All stages: prepare every case, cut cubes, pre-train MNet. What is up to date is not done again."""
    check_valid_everywhere(images_path, zonal_mask_path, root, splits_path, elsewhere=bool(hand_off.deployment))
    with flow_runner(hand_off, cases_per_task) as runner:
        done = run_pipeline(
            images_path,
            zonal_mask_path,
            root,
            splits_path=splits_path,
            split_mode=split_mode,
            archive_format=archive_format,
            patient_pattern=patient_pattern,
            strict=strict,
            max_warnings=max_warnings,
            preparation=preparation,
            cubes=cubes,
            pretraining=pretraining,
            runner=runner,
        )
    name, message = state_after(done.preparation)
    return ended(done, name, f"{message}; validation loss {done.training.best_validation_loss:.5f}")
