"""Task that shows, in Prefect's UI, what the published model is and what it was made from."""

import hashlib
from collections.abc import Iterator

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.markdown import code, text
from zssmnet.data.splits import SUBSETS, VALIDATION_SUBSET
from zssmnet.registry.versions import MODEL, PretrainedModel, stable_model, version_key
from zssmnet.storage import Storage, open_storage

_SHOWN = 12
"""Digits of a SHA-256 that are shown."""


@task(task_run_name="show-model", cache_policy=NO_CACHE, persist_result=False)
def show_model(weights_path: str) -> None:
    """The record of the published model and the lineage of its data, as artifacts."""
    weights = open_storage(weights_path)
    record = stable_model(weights)
    if record is None:
        return
    create_markdown_artifact(
        key="model-record", markdown=record_table(weights, record), description="The published model's record"
    )
    create_markdown_artifact(
        key="data-lineage", markdown=lineage(record), description="What the published model was made from"
    )


def record_table(weights: Storage, record: PretrainedModel) -> str:
    """The record of a model as a table in Markdown."""
    recipe, network = record.parameters.training, record.parameters.network
    rows = {
        "model": code(weights.where(MODEL)),
        "version": code(weights.where(version_key(record.run_id))),
        "run id": code(record.run_id),
        "replaces": code(record.replaces) if record.replaces else "none",
        "SHA-256": code(record.outputs[0].sha256),
        "size": f"{record.outputs[0].size:,} bytes",
        "validation loss": f"**{record.best_validation_loss:.5f}**",
        "explained variance": f"{record.metrics['explained_variance']:.1%}"
        if "explained_variance" in record.metrics
        else "not recorded",
        "best epoch": f"{record.best_epoch} of {len(record.history)}",
        "cases": f"{len(record.data)}" if record.data else "not recorded by the cubes",
        "network": f"channels {', '.join(map(str, network.channels))}, merge {network.merge}",
        "corruption": record.parameters.corruption.recipe,
        "device": f"{record.device}, convolutions in {record.precision}" if record.device else "not recorded",
        "recipe": f"batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}, seed {recipe.seed}",
        "versions": text(", ".join(f"{name} {version}" for name, version in record.versions.items())),
    }
    first, *others = (f"| {name} | {value} |" for name, value in rows.items())
    return "\n".join([first, "| --- | --- |", *others])


def lineage(record: PretrainedModel) -> str:
    """From prepared cases over cubes to the model, as a table in Markdown: Prefect's UI draws no charts."""
    made_from = [
        "| subset | cases | their SHA-256 | cubes | their SHA-256 |",
        "| --- | --- | --- | --- | --- |",
        *_rows(record),
    ]
    model = f"→ **{MODEL}**, run {code(record.run_id)}, SHA-256 {code(record.outputs[0].sha256[:_SHOWN])}"
    began_with_a_model = len(record.inputs) > len(SUBSETS)  # beside the files of cubes
    started = [f"Training began with the weights of version {code(str(record.replaces))}."] * began_with_a_model
    return "\n\n".join(["\n".join(made_from), model, *started])


def _rows(record: PretrainedModel) -> Iterator[str]:
    for subset, cubes in zip(SUBSETS, record.inputs, strict=False):
        use = "validation" if subset == VALIDATION_SUBSET else "training"
        sha256s = [case.sha256 for case in record.data if case.subset == subset]
        digest = hashlib.sha256("".join(sha256s).encode()).hexdigest()[:_SHOWN] if sha256s else ""
        yield f"| {subset}, {use} | {len(sha256s)} | `{digest}` | {text(cubes.name)} | {code(cubes.sha256[:_SHOWN])} |"
