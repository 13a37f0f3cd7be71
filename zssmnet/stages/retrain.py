"""Retraining on enough new data; the published model stays unless the new one is better."""

import logging
from typing import Literal

from typing_extensions import override

from zssmnet.config import (
    PICAI_PATIENT,
    ArchiveFormat,
    ChallengerConfig,
    CubesConfig,
    MarginPercent,
    MinNewCases,
    PreparationConfig,
    PretrainConfig,
    RetrainingConfig,
    SplitMode,
)
from zssmnet.data.archive import shortened
from zssmnet.registry.challenge import challenger_settings
from zssmnet.report.gallery import publish_training_pictures
from zssmnet.report.markdown import text
from zssmnet.report.model_page import contest_section
from zssmnet.report.run_page import changes_section
from zssmnet.runner import PlainRunner, Runner, Summary
from zssmnet.stages.cubes import generate_cubes
from zssmnet.stages.prepare import find_archive, prepare_cases
from zssmnet.stages.pretrain import PretrainingSummary, pretrain
from zssmnet.stages.segment_zones import masks_of_run
from zssmnet.storage import Address, open_storage
from zssmnet.storage.layout import Layout
from zssmnet.storage.lock import locked

log = logging.getLogger(__name__)

DEFAULTS = RetrainingConfig()
RetrainingState = Literal["Nothing new", "Published", "Not better"]


class RetrainingSummary(Summary):
    """Outcome of a retraining."""

    root: str
    new: int
    changed: int
    gone: int
    training: PretrainingSummary | None = None
    state: RetrainingState
    decision: str

    @property
    @override
    def outcome(self) -> tuple[str, str]:
        return self.state, self.decision


def retrain(
    images_path: Address,
    zonal_mask_path: Address | None,
    root: Address,
    *,
    zones_model: Address | None = None,
    min_new_cases: MinNewCases = DEFAULTS.min_new_cases,
    margin_percent: MarginPercent = DEFAULTS.margin_percent,
    splits_path: Address | None = None,
    split_mode: SplitMode | None = None,
    archive_format: ArchiveFormat | None = None,
    patient_pattern: str = PICAI_PATIENT,
    preparation: PreparationConfig | None = None,
    cubes: CubesConfig | None = None,
    pretraining: ChallengerConfig | None = None,
    runner: Runner | None = None,
) -> RetrainingSummary:
    """Continue training from the published model when there are enough new cases; publish the result if it is better.

    Args:
        images_path: an nnU-Net raw, PI-CAI MHA or BIDS archive.
        zonal_mask_path: folder of zonal masks ``<case>.nii.gz``; none: ``zones_model`` makes them all.
        root: working root; all files lie in ``SSL/`` below it.
        zones_model: networks of `train_zones` that make masks for cases that have none; none: those are left out.
        min_new_cases: new or changed cases that are worth a training; with fewer, nothing is done.
        margin_percent: by how much a challenger's validation loss must be lower than that of the published model.
        splits_path: splits.json with five folds; without it subsets follow from a hash of the patient's id.
        split_mode: ``reference`` needs a splits.json, ``stable`` takes none; none: by ``splits_path``.
        archive_format: ``nnunet``, ``picai`` or ``bids``; none: detected automatically.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        preparation: resampling and cropping; none: the published settings.
        cubes: how cubes are cut; none: as before.
        pretraining: the challenger's budget; its default network stands for that of the published model.
        runner: what runs cases, subsets and the training; none: this process.

    Errors are those of `prepare_archive`, `generate_cubes` and `pretrain`.
    """
    runner, layout = runner or PlainRunner(), Layout(open_storage(root).uri)
    min_new_cases = RetrainingConfig(min_new_cases=min_new_cases, margin_percent=margin_percent).min_new_cases
    weights, cubes_folder = open_storage(layout.weights), open_storage(layout.cubes)
    asked = PretrainConfig.of(pretraining or DEFAULTS.pretraining), cubes and CubesConfig.of(cubes)
    config, cubes = challenger_settings(weights, cubes_folder, *asked)
    masks = masks_of_run(zones_model, images_path, zonal_mask_path, layout, archive_format, runner)
    splits = splits_path, split_mode, patient_pattern
    archive = find_archive(images_path, masks, layout.data, archive_format, splits, preparation)
    changes = archive.changes(weights)
    log.info(
        "since the last model: %d cases new, %d changed, %d gone",
        *map(len, (changes.new, changes.changed, changes.gone)),
    )
    runner.progress.show("Data", lambda: changes_section(changes))

    def ended(state: RetrainingState, decision: str, training: PretrainingSummary | None = None) -> RetrainingSummary:
        runner.progress.show("Decision", lambda: text(decision))
        new, changed, gone = map(len, (changes.new, changes.changed, changes.gone))
        return RetrainingSummary(
            root=layout.root, new=new, changed=changed, gone=gone, training=training, state=state, decision=decision
        )

    def nothing_new(reason: str) -> RetrainingSummary:
        log.info("nothing is trained: %s", reason)
        return ended("Nothing new", f"nothing is trained: {reason}")

    fresh = {*changes.new, *changes.changed}
    if len(fresh) < min_new_cases:
        # draw what an earlier run did not come to that was killed after it had published its model
        publish_training_pictures(cubes_folder, weights, open_storage(layout.reports))
        return nothing_new(f"{len(fresh)} new or changed cases, fewer than {min_new_cases}")
    with locked(archive.output), locked(cubes_folder):
        prepared = prepare_cases(archive, changes, runner)
        usable = fresh - prepared.left_out.keys()
        if len(usable) < min_new_cases:
            left_out = shortened(sorted(fresh - usable))
            reason = f"{len(usable)} of {len(fresh)} new or changed cases can be used, fewer than {min_new_cases}"
            return nothing_new(f"{reason}; left out: {left_out}")
        generate_cubes(layout.data, layout.cubes, cubes, runner=runner)
        trained = pretrain(
            layout.cubes, layout.weights, config, challenge=True, margin_percent=margin_percent, runner=runner
        )
    runner.progress.show("Champion and challenger", lambda: contest_section(cubes_folder, weights))
    if trained.champion_loss is None:
        return ended("Published", f"first model {trained.run_id} published", trained)
    against = f"{trained.challenger_loss:.5f} against {trained.champion_loss:.5f} of the published model"
    if trained.published:
        return ended("Published", f"model {trained.run_id} published: {against}", trained)
    return ended("Not better", f"the new model is not published: {against}", trained)
