"""Flow: the whole, from an archive to pre-trained weights."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, Field

from flows.concurrency import chosen_runner
from flows.generate_cubes import CubesSettings, CubesSummary, generate_cubes
from flows.parameter_help import with_parameter_help
from flows.prepare_data import PreparationSettings, PreparationSummary, prepare_data
from flows.pretrain import HandOffChoice, PretrainSettings, choose_pretrain
from flows.states import ended
from tasks.addresses import check_valid_everywhere
from tasks.hand_off import HERE
from tasks.locking import alone_in
from tasks.markdown import text
from tasks.pretraining import TrainingOutcome
from tasks.run_control import ends_cancelled
from zssmnet.config import (
    PICAI_PATIENT,
    CubesConfig,
    FormatChoice,
    ImagesPath,
    MaskPath,
    MaxWarnings,
    PatientPattern,
    PreparationConfig,
    PretrainConfig,
    SplitModeChoice,
    SplitsPath,
    Strict,
)
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


@flow(name="ssl-pretraining", flow_run_name="ssl-pretraining {root}", task_runner=chosen_runner())
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
    preparation: PreparationSettings = PreparationConfig(),
    cubes: CubesSettings = CubesConfig(),
    pretraining: PretrainSettings = PretrainConfig(),
    hand_off: HandOffChoice = HERE,
) -> PipelineSummary:
    """All stages: prepare every case, cut cubes, pre-train MNet. What is up to date is not done again."""
    layout = Layout(root)
    check_valid_everywhere(images_path, zonal_mask_path, root, splits_path, elsewhere=bool(hand_off.deployment))
    with alone_in(layout.data, layout.cubes):
        prepared = prepare_data(
            images_path,
            zonal_mask_path,
            layout.data,
            splits_path,
            split_mode,
            archive_format,
            patient_pattern,
            strict,
            max_warnings,
            preparation,
            layout.reports,
        )
        cut = generate_cubes(layout.data, layout.cubes, config=cubes, reports_path=layout.reports)
        trained = choose_pretrain(hand_off)(layout.cubes, layout.weights, pretraining, layout.reports, False, 0.0)
    summary = PipelineSummary(root=root, preparation=prepared, cubes=cut, training=trained)
    create_markdown_artifact(
        key="summary",
        markdown="\n".join(f"- {text(line)}" for line in summary_lines(summary)),
        description="What came of the run",
    )
    return ended(summary, prepared.state, f"{prepared.prepared} cases prepared, {prepared.others}")


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
