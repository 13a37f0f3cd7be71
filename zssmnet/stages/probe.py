"""Stage: do weights help? Fine-tuning from them and from scratch on a few labelled cases, compared."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from zssmnet.config import PICAI_PATIENT, ProbeConfig
from zssmnet.errors import ConfigError
from zssmnet.probe.arms import POSITIVE, files_of, read_arm, scaling_of
from zssmnet.probe.labels import find_labelled_cases
from zssmnet.probe.note import note_verdict
from zssmnet.probe.run import RESULT, check_arms, compare_arms
from zssmnet.probe.trials import Trial
from zssmnet.report.gallery import Picture
from zssmnet.report.model_page import embedded
from zssmnet.report.probe import probe_picture, probe_table
from zssmnet.runner import PlainRunner, Runner, Summary
from zssmnet.storage import Address, open_storage
from zssmnet.storage.ownership import check_ours
from zssmnet.training.precision import choose_device

log = logging.getLogger(__name__)

STAGE = "probe"
PICTURE, TABLE = "probe.png", "probe.md"


class ProbeSummary(Summary):
    """Outcome of a probe, and addresses of its files."""

    verdict: str
    sentences: tuple[str, ...]
    result: str
    picture: str
    table: str

    @property
    @override
    def outcome(self) -> tuple[str, str]:
        return "Completed", self.verdict


def probe_weights(
    images_path: Address,
    zonal_mask_path: Address,
    weights: Sequence[str],
    output_path: Address,
    labels_path: Address | None = None,
    positive_control: str | None = None,
    patient_pattern: str = PICAI_PATIENT,
    config: ProbeConfig | None = None,
    runner: Runner | None = None,
) -> ProbeSummary:
    """Compare weights with scratch on held-out cases; an interrupted probe continues after its last whole trial.

    Args:
        images_path: the labelled cases, as of `prepare_archive`.
        zonal_mask_path: their zonal masks.
        weights: files of weights, local or in S3, or local folders of packages; trainings of one recipe, separated by
            commas, are one arm.
        output_path: folder for the result, its table and picture, and the trials.
        labels_path: folder of lesions ``<case>.nii.gz``, for the task lesions.
        positive_control: files of weights that were trained with labels of other cases, separated by commas.
        patient_pattern: regular expression whose group ``patient`` names a case's patient.
        config: task, preset, numbers of cases and seeds; none: the defaults.
        runner: whose progress shows the trials; none: none does.

    Raises:
        ConfigError: settings or weights that cannot be compared.
        InputError: cases or weights that cannot be used, or too few of them.
    """
    runner, config = runner or PlainRunner(), config or ProbeConfig()
    choose_device(config.device)  # before any case is read
    if config.task == "lesions" and labels_path is None:
        raise ConfigError("the task 'lesions' needs --labels-path; or choose --task zones, which needs no labels")
    labels = open_storage(labels_path) if labels_path and config.task == "lesions" else None
    output, progress = open_storage(output_path), runner.progress
    is_result = output.stat(RESULT) is not None and b'"verdicts"' in output.read(RESULT)
    for key in (RESULT, TABLE, PICTURE):  # the first is written first, and tells whose they are
        check_ours(output, key, lambda file: is_result)
    arms = [read_arm(one, config.force) for one in weights]
    if positive_control:
        arms.append(replace(read_arm(positive_control, force=True), name=POSITIVE))
    config = check_arms(arms, config)
    images, masks = open_storage(images_path), open_storage(zonal_mask_path)
    cases = find_labelled_cases(images, masks, labels, config.scale, scaling_of(arms))

    def on_plan(trials: int, seconds: float) -> None:
        log.info("%d trials, about %.0f min on this machine", trials, max(1.0, seconds / 60))
        progress.begin(STAGE, trials, "trials")

    def on_trial(trial: Trial) -> None:
        progress.advance(STAGE)
        progress.note(
            STAGE, f"{trial.arm}, {trial.labelled} labelled, seed {trial.seed}: {trial.mean(config.task):.3f}"
        )

    result = compare_arms(cases, arms, output, config, patient_pattern, on_plan, on_trial)
    for addresses, verdict in zip(weights, result.verdicts, strict=True):
        for address in files_of(addresses):
            note_verdict(address, verdict, result)
    table, picture = probe_table(result), probe_picture(result)
    output.publish_bytes(TABLE, table.encode())
    output.publish_bytes(PICTURE, picture)
    progress.show("Do the weights help?", lambda: f"{table}\n\n{embedded(Picture(PICTURE, picture))}")
    return ProbeSummary(
        verdict=result.verdict,
        sentences=tuple(one.sentence for one in result.verdicts),
        result=output.where(RESULT),
        picture=output.where(PICTURE),
        table=output.where(TABLE),
    )
