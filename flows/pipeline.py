"""Flow: the whole, from an archive to pre-trained weights."""

from typing import Annotated

from prefect import flow
from pydantic import BaseModel, Field

from flows.concurrency import chosen_runner
from flows.generate_cubes import CubesSettings, CubesSummary, generate_cubes
from flows.parameter_help import with_parameter_help
from flows.prepare_data import PreparationSettings, PreparationSummary, prepare_data
from flows.pretrain import HandOffChoice, PretrainSettings, choose_pretrain
from flows.states import as_summary, ended, summary_of
from tasks.folders import alone_in, check_valid_everywhere
from tasks.hand_off import HERE
from tasks.markdown import code
from tasks.pretraining import TrainingOutcome
from tasks.run_control import ends_cancelled
from tasks.run_names import named_after
from tasks.run_page import RunPage, cases_section, model_section
from zssmnet.config import (
    PICAI_PATIENT,
    CasesPerTask,
    FormatChoice,
    ImagesPath,
    MaskPath,
    MaxWarnings,
    PatientPattern,
    PretrainConfig,
    SplitModeChoice,
    SplitsPath,
    Strict,
)
from zssmnet.registry.versions import stable_model
from zssmnet.storage import open_storage
from zssmnet.storage.layout import Layout

WorkingRoot = Annotated[
    str, Field(min_length=1, description="Working root, a folder or s3://bucket/prefix; all files go to SSL/ below it")
]


class PipelineSummary(BaseModel):
    """What came of a whole run."""

    root: str
    preparation: PreparationSummary
    cubes: CubesSummary
    training: TrainingOutcome


@flow(name="ssl-pretraining", flow_run_name=named_after("root"), task_runner=chosen_runner())
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
    layout = Layout(root)
    check_valid_everywhere(images_path, zonal_mask_path, root, splits_path, elsewhere=bool(hand_off.deployment))
    page = RunPage()
    before = stable_model(open_storage(layout.weights))
    with alone_in(layout.data, layout.cubes):
        prepared = as_summary(
            PreparationSummary,
            summary_of(
                prepare_data,
                images_path,
                zonal_mask_path,
                layout.data,
                splits_path,
                split_mode,
                archive_format,
                patient_pattern,
                strict,
                max_warnings,
                cases_per_task,
                preparation,
                layout.reports,
            ),
        )
        page.put("Cases", cases_section(prepared.used, prepared.left_out, prepared.warnings))
        cut = as_summary(
            CubesSummary, generate_cubes(layout.data, layout.cubes, config=cubes, reports_path=layout.reports)
        )
        page.put("Cubes", f"{cut.cubes} cubes in {code(layout.cubes)}")
        page.put("Model", "is being trained: its run, below, shows how it goes")
        train = choose_pretrain(hand_off)
        config = pretraining or PretrainConfig()
        trained = as_summary(
            TrainingOutcome, train(layout.cubes, layout.weights, config, layout.reports, False, 0.0, None)
        )
    summary = PipelineSummary(root=root, preparation=prepared, cubes=cut, training=trained)
    weights, reports = open_storage(layout.weights), open_storage(layout.reports)
    if made := stable_model(weights):
        page.put("Model", model_section(weights, reports, made, before))
    message = f"{prepared.message}; validation loss {trained.best_validation_loss:.5f}"
    return ended(summary, prepared.state, message)


def summary_lines(summary: PipelineSummary) -> list[str]:
    """What was made, where, and how the loss went."""
    prepared, cut, trained = summary.preparation, summary.cubes, summary.training
    sizes = " + ".join(str(outcome.cubes) for outcome in cut.subsets)
    layout = Layout(summary.root)
    return [
        f"cases:    {prepared.prepared} prepared, {prepared.others} -> {layout.data}",
        f"cubes:    {cut.cubes} ({sizes}) -> {layout.cubes}",
        f"training: {trained.epochs} epochs, validation loss {trained.first_validation_loss:.5f} after the first,"
        f" {trained.best_validation_loss:.5f} at best (epoch {trained.best_epoch})",
        f"weights:  {trained.model}",
        f"pictures: {layout.reports}",
    ]
