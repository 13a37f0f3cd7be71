"""Flow: retraining when there are enough new data; the published model stays unless the new one is better."""

import logging
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel, Field

from flows.concurrency import chosen_runner
from flows.generate_cubes import CubesSettings, generate_cubes
from flows.parameter_help import with_parameter_help
from flows.pipeline import WorkingRoot
from flows.prepare_data import (
    FormatChoice,
    ImagesPath,
    MaskPath,
    PatientPattern,
    PreparationSettings,
    SplitModeChoice,
    SplitsPath,
    prepare_data,
)
from flows.pretrain import HandOffChoice, pretrain_where_told
from tasks.announcement import announce
from tasks.cases import inventory, look_for_news, subsets
from tasks.hand_off import HERE
from tasks.locking import alone_in
from tasks.markdown import text
from tasks.pretraining import TrainingOutcome
from zssmnet.config import CubesConfig, PreparationConfig, PretrainConfig, TrainingConfig
from zssmnet.data.archive import PICAI_PATIENT, shortened
from zssmnet.registry.changes import News
from zssmnet.report.gallery import publish_training_pictures
from zssmnet.storage import open_storage
from zssmnet.storage.layout import Layout

log = logging.getLogger("zssmnet.flows")

BUDGET = PretrainConfig(training=TrainingConfig(epochs=100, learning_rate=0.01, patience=10))
"""A challenger starts from trained weights: fewer epochs at a smaller learning rate."""


class RetrainingSummary(BaseModel):
    """What came of a look for new data."""

    root: str
    new: int
    changed: int
    gone: int
    training: TrainingOutcome | None = None
    decision: str


@flow(name="retrain-on-new-data", flow_run_name="retrain-on-new-data {root}", task_runner=chosen_runner())
@with_parameter_help
def retrain_on_new_data(
    images_path: ImagesPath,
    zonal_mask_path: MaskPath,
    root: WorkingRoot,
    splits_path: SplitsPath = None,
    split_mode: SplitModeChoice = None,
    archive_format: FormatChoice = None,
    patient_pattern: PatientPattern = PICAI_PATIENT,
    min_new_cases: Annotated[
        int, Field(ge=1, description="New or changed cases that are worth a training; with fewer, nothing is done")
    ] = 10,
    preparation: PreparationSettings = PreparationConfig(),
    cubes: CubesSettings = CubesConfig(),
    pretraining: Annotated[
        PretrainConfig, Field(description="The challenger's budget; its network must be that of the published model")
    ] = BUDGET,
    hand_off: HandOffChoice = HERE,
) -> State[RetrainingSummary]:
    """Train on from the published model when there are enough new cases; publish what comes out if it is better."""
    layout = Layout(root)
    cases = inventory(images_path, zonal_mask_path, archive_format).cases
    subset_of = subsets([case.id for case in cases], splits_path, split_mode, patient_pattern)
    news = look_for_news(cases, subset_of, images_path, zonal_mask_path, layout.data, layout.weights, preparation)
    found = _tell(news)
    if len(found) < min_new_cases:
        _finish_last(layout)
        return _nothing_done(root, news, f"{len(found)} new or changed cases, fewer than {min_new_cases}")
    with alone_in(layout.data, layout.cubes):
        prepared = prepare_data(
            images_path,
            zonal_mask_path,
            layout.data,
            splits_path,
            split_mode,
            archive_format,
            patient_pattern,
            config=preparation,
        )
        usable = found - set(prepared.unusable)
        if len(usable) < min_new_cases:
            left_out = shortened(sorted(found - usable))
            reason = f"{len(usable)} of {len(found)} new or changed cases can be used, fewer than {min_new_cases}"
            return _nothing_done(root, news, f"{reason}; left out: {left_out}")
        generate_cubes(layout.data, layout.cubes, config=cubes, reports_path=layout.reports)
        trained = pretrain_where_told(
            layout.cubes, layout.weights, pretraining, layout.reports, hand_off, challenge=True
        )
    return _decided(root, news, trained)


def _tell(news: News) -> set[str]:
    """Say what was found; ids of new and changed cases."""
    lines = [
        f"- {name}: {len(ids)}" + (f" ({text(shortened(ids))})" if ids else "")
        for name, ids in (("new", news.new), ("changed", news.changed), ("gone", news.gone))
    ]
    log.info("since the last model: %d cases new, %d changed, %d gone", *map(len, (news.new, news.changed, news.gone)))
    create_markdown_artifact(
        key="news", markdown="\n".join(lines), description="What is new since the last model was trained"
    )
    return {*news.new, *news.changed}


def _finish_last(layout: Layout) -> None:
    """Announce and draw what an earlier run that was killed after it had published its model did not come to."""
    announce(open_storage(layout.weights), "challenge")
    publish_training_pictures(*(open_storage(folder) for folder in (layout.cubes, layout.weights, layout.reports)))


def _nothing_done(root: str, news: News, reason: str) -> State[RetrainingSummary]:
    log.info("nothing is trained: %s", reason)
    return _ended("Nothing new", root, news, f"nothing is trained: {reason}", None)


def _decided(root: str, news: News, trained: TrainingOutcome) -> State[RetrainingSummary]:
    if trained.champion_loss is None:
        return _ended("Published", root, news, f"first model {trained.run_id} published", trained)
    against = f"{trained.challenger_loss:.5f} against {trained.champion_loss:.5f} of the published model"
    if trained.published:
        return _ended("Published", root, news, f"model {trained.run_id} published: {against}", trained)
    return _ended("Not better", root, news, f"the new model is not published: {against}", trained)


def _ended(name: str, root: str, news: News, decision: str, trained: TrainingOutcome | None) -> State[Any]:
    create_markdown_artifact(key="decision", markdown=text(decision), description="What came of the retraining")
    summary = RetrainingSummary(
        root=root,
        new=len(news.new),
        changed=len(news.changed),
        gone=len(news.gone),
        training=trained,
        decision=decision,
    )
    return Completed(name=name, message=decision, data=summary)
