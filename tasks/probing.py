"""Task that compares weights, with its artifacts."""

import logging
from collections.abc import Sequence

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks.pictures import embedded
from tasks.progress import display
from zssmnet.config import ProbeConfig
from zssmnet.errors import ConfigError
from zssmnet.probe.contenders import files_of, read_contender
from zssmnet.probe.labels import read_labelled_cases
from zssmnet.probe.note import note_verdict
from zssmnet.probe.run import RESULT, probe
from zssmnet.probe.trials import Trial
from zssmnet.report.gallery import Picture
from zssmnet.report.probe import probe_picture, probe_table
from zssmnet.storage import open_storage

log = logging.getLogger("zssmnet.tasks")

STAGE = "probe"
PICTURE, TABLE = "probe.png", "probe.md"


class ProbeOutcome(BaseModel):
    """What a probe found, and where its files are."""

    verdict: str
    sentences: tuple[str, ...]
    result: str
    picture: str
    table: str


@task(task_run_name="probe", cache_policy=NO_CACHE, persist_result=False)
def compare_weights(
    images_path: str,
    zonal_mask_path: str,
    labels_path: str | None,
    weights: Sequence[str],
    output_path: str,
    patient_pattern: str,
    config: ProbeConfig,
) -> ProbeOutcome:
    """Compare weights on labelled cases; publish result, table and picture, and show them in the run."""
    if config.task == "lesions" and labels_path is None:
        raise ConfigError("the task 'lesions' needs --labels-path; or choose --task zones, which needs no labels")
    labels = open_storage(labels_path) if labels_path and config.task == "lesions" else None
    output, shown = open_storage(output_path), display()
    cases = read_labelled_cases(
        open_storage(images_path), open_storage(zonal_mask_path), labels, config, patient_pattern
    )

    def on_plan(trials: int, seconds: float) -> None:
        log.info("%d trials, about %.0f min on this machine", trials, max(1.0, seconds / 60))
        shown.begin(STAGE, trials, "trials")

    def on_trial(trial: Trial) -> None:
        shown.advance(STAGE)
        shown.note(STAGE, f"{trial.arm}, {trial.labelled} labelled, seed {trial.seed}: {trial.mean(config.task):.3f}")

    contenders = [read_contender(one, config.force) for one in weights]
    result = probe(cases, contenders, output, config, patient_pattern, on_plan, on_trial)
    for addresses, verdict in zip(weights, result.verdicts, strict=True):
        for address in files_of(addresses):
            note_verdict(address, verdict, result)
    table, picture = probe_table(result), probe_picture(result)
    output.publish_bytes(TABLE, table.encode())
    output.publish_bytes(PICTURE, picture)
    create_markdown_artifact(key="probe", markdown=table, description="Do the weights help?")
    shown_picture = embedded(Picture(PICTURE, picture))
    create_markdown_artifact(key="probe-curves", markdown=shown_picture, description="Curves of each arm")
    return ProbeOutcome(
        verdict=result.verdict,
        sentences=tuple(one.sentence for one in result.verdicts),
        result=output.where(RESULT),
        picture=output.where(PICTURE),
        table=output.where(TABLE),
    )
