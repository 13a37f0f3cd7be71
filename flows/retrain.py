"""Flow: retraining when there are enough new data; the published model stays unless the new one is better."""

import logging
from typing import Annotated

from prefect import flow
from pydantic import BaseModel, Field

from flows.concurrency import chosen_runner
from flows.generate_cubes import generate_cubes
from flows.parameter_help import with_parameter_help
from flows.pipeline import WorkingRoot
from flows.prepare_data import PreparationSettings, prepare_cases
from flows.pretrain import HandOffChoice, choose_pretrain
from flows.states import as_summary, ended
from tasks.announcement import announce
from tasks.cases import as_is, find_changes, inventory, subsets
from tasks.folders import alone_in, check_valid_everywhere, given
from tasks.hand_off import HERE
from tasks.markdown import text
from tasks.pretraining import TrainingOutcome
from tasks.run_control import ends_cancelled
from tasks.run_names import named_after
from tasks.run_page import RunPage, cases_section, contest_section
from zssmnet.config import (
    PICAI_PATIENT,
    CasesPerTask,
    ChallengerConfig,
    CubesConfig,
    FormatChoice,
    ImagesPath,
    JudgeChoice,
    LabelsPath,
    MarginPercent,
    MaskPath,
    MinNewCases,
    PatientPattern,
    PreparationConfig,
    ProbeConfig,
    ProbeJudge,
    ProbeMargin,
    RetrainingConfig,
    SplitModeChoice,
    SplitsPath,
)
from zssmnet.data.archive import shortened
from zssmnet.registry.challenge import challenger_settings
from zssmnet.registry.changes import Changes
from zssmnet.report.gallery import publish_training_pictures
from zssmnet.storage import open_storage
from zssmnet.storage.layout import Layout

log = logging.getLogger("zssmnet.flows")

DEFAULTS = RetrainingConfig()


class RetrainingSummary(BaseModel):
    """What came of a search for new data."""

    root: str
    new: int
    changed: int
    gone: int
    training: TrainingOutcome | None = None
    decision: str


@flow(name="retrain-on-new-data", flow_run_name=named_after("root"), task_runner=chosen_runner())
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
    judge: JudgeChoice = DEFAULTS.judge,
    labels_path: LabelsPath = None,
    probe_margin: ProbeMargin = DEFAULTS.probe_margin,
    probe: Annotated[
        ProbeConfig | None, Field(description="With judge probe: its settings; none: the defaults")
    ] = None,
    hand_off: HandOffChoice = HERE,
) -> RetrainingSummary:
    """Train on from the published model when there are enough new cases; publish what comes out if it is better."""
    images_path, zonal_mask_path, root = given(images_path=images_path, zonal_mask_path=zonal_mask_path, root=root)
    layout = Layout(root)
    by_probe = None
    if judge == "probe":
        by_probe = ProbeJudge(
            images_path=images_path,
            zonal_mask_path=zonal_mask_path,
            labels_path=labels_path,
            patient_pattern=patient_pattern,
            margin=probe_margin,
            probe=probe,
        )
    places = images_path, zonal_mask_path, root, splits_path, labels_path
    check_valid_everywhere(*places, elsewhere=bool(hand_off.deployment))
    preparation = preparation or PreparationConfig()
    config, cubes = challenger_settings(
        open_storage(layout.weights), open_storage(layout.cubes), pretraining or DEFAULTS.pretraining, cubes
    )
    found = inventory(images_path, zonal_mask_path, archive_format)
    subset_of = subsets(as_is([case.id for case in found.cases]), splits_path, split_mode, patient_pattern)
    changes = find_changes(
        as_is(found.cases),
        as_is(subset_of),
        images_path,
        zonal_mask_path,
        layout.data,
        layout.weights,
        preparation,
    )
    page = RunPage()
    fresh = {*changes.new, *changes.changed}
    page.put("Data", _described(changes))
    if len(fresh) < min_new_cases:
        _finish_last(layout)
        return _nothing_done(page, root, changes, f"{len(fresh)} new or changed cases, fewer than {min_new_cases}")
    with alone_in(layout.data, layout.cubes):
        folders = images_path, zonal_mask_path, layout.data
        prepared = prepare_cases(found, subset_of, changes, *folders, preparation, cases_per_task=cases_per_task)
        page.put("Cases", cases_section(prepared.used, prepared.left_out, prepared.warnings))
        usable = fresh - prepared.left_out.keys()
        if len(usable) < min_new_cases:
            left_out = shortened(sorted(fresh - usable))
            reason = f"{len(usable)} of {len(fresh)} new or changed cases can be used, fewer than {min_new_cases}"
            return _nothing_done(page, root, changes, f"{reason}; left out: {left_out}")
        generate_cubes(layout.data, layout.cubes, config=cubes, reports_path=layout.reports)
        page.put("Decision", "the challenger is being trained: its run, below, shows how it goes")
        done = choose_pretrain(hand_off)(
            layout.cubes, layout.weights, config, layout.reports, True, margin_percent, by_probe
        )
        trained = as_summary(TrainingOutcome, done)
    if contest := contest_section(open_storage(layout.cubes), open_storage(layout.weights)):
        page.put("Champion and challenger", contest)
    return _decided(page, root, changes, trained)


def _described(changes: Changes) -> str:
    """The changes as a list in Markdown; logged as well."""
    lines = [
        f"- {name}: {len(ids)}" + (f" ({text(shortened(ids))})" if ids else "")
        for name, ids in (("new", changes.new), ("changed", changes.changed), ("gone", changes.gone))
    ]
    log.info(
        "since the last model: %d cases new, %d changed, %d gone",
        *map(len, (changes.new, changes.changed, changes.gone)),
    )
    return "\n".join(["Since the last model was trained:", "", *lines])


def _finish_last(layout: Layout) -> None:
    """Announce and draw what an earlier run that was killed after it had published its model did not come to."""
    announce(open_storage(layout.weights), "challenge")
    publish_training_pictures(*(open_storage(folder) for folder in (layout.cubes, layout.weights, layout.reports)))


def _nothing_done(page: RunPage, root: str, changes: Changes, reason: str) -> RetrainingSummary:
    log.info("nothing is trained: %s", reason)
    return _ended(page, "Nothing new", root, changes, f"nothing is trained: {reason}", None)


def _decided(page: RunPage, root: str, changes: Changes, trained: TrainingOutcome) -> RetrainingSummary:
    if trained.champion_loss is None:
        return _ended(page, "Published", root, changes, f"first model {trained.run_id} published", trained)
    against = f"{trained.challenger_loss:.5f} against {trained.champion_loss:.5f} of the published model"
    if trained.gain:
        against = f"by the probe {trained.gain.in_words}; validation loss {against}"
    if trained.published:
        return _ended(page, "Published", root, changes, f"model {trained.run_id} published: {against}", trained)
    return _ended(page, "Not better", root, changes, f"the new model is not published: {against}", trained)


def _ended(
    page: RunPage, name: str, root: str, changes: Changes, decision: str, trained: TrainingOutcome | None
) -> RetrainingSummary:
    page.put("Decision", text(decision))
    summary = RetrainingSummary(
        root=root,
        new=len(changes.new),
        changed=len(changes.changed),
        gone=len(changes.gone),
        training=trained,
        decision=decision,
    )
    return ended(summary, name, decision)
