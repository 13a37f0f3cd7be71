"""The sections of a run's page on its model, in Markdown: losses, record, lineage; champion and challenger."""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zssmnet.data.archive import CHANNELS
from zssmnet.data.splits import SUBSETS, VALIDATION_SUBSET
from zssmnet.preparation.cubes import find_cubes, open_cubes
from zssmnet.registry.challenge import JUDGEMENT, Judgement
from zssmnet.registry.runs import run_folder
from zssmnet.registry.versions import MODEL, PretrainedModel, find_version, version_key
from zssmnet.report.gallery import LOSS_CURVES, RESTORED_CUBES, Picture, draw_restored_by
from zssmnet.report.markdown import code, table, text
from zssmnet.storage import Storage
from zssmnet.storage.records import read_record
from zssmnet.training.checkpoint import BEST
from zssmnet.training.dataset import CubeSet

EXPLAINED_VARIANCE = "Explained variance is 100 % where the cubes are restored perfectly, 0 for the best constant."
_SHOWN = 12
"""Digits of a SHA-256 that are shown."""


def model_section(weights: Storage, reports: Storage, made: PretrainedModel, before: PretrainedModel | None) -> str:
    """The published model: its losses, how it compares with the one before, its pictures, record and lineage."""
    quality = made.best.quality
    lines = [
        f"{code(weights.where(MODEL))}, kept beside it as {code(version_key(made.run_id))}",
        f"validation loss **{made.best_validation_loss:.5f}** in epoch {made.best_epoch} of {len(made.history)}"
        + (f", **{quality}**. {EXPLAINED_VARIANCE}" if quality else ""),
        _compared(made, before),
    ]
    pictures = (Picture(key, reports.read(key)) for key in (LOSS_CURVES, RESTORED_CUBES) if reports.stat(key))
    return "\n\n".join([*lines, *map(embedded, pictures), record_table(weights, made), lineage(made)])


def contest_section(cubes: Storage, weights: Storage) -> str:
    """The last challenge as a table and two pictures of the same validation cubes; empty if there was no champion."""
    judgement = read_record(weights, JUDGEMENT, Judgement)
    champion = find_version(weights, judgement.champion) if judgement and judgement.champion else None
    if judgement is None or champion is None:
        return ""
    compared = table(("", "champion", "challenger"), _contest_rows(judgement, champion))
    if judgement.champion_loss is None:
        explained = "The champion's loss was not finite."
    else:
        percent = 100 * (judgement.challenger_loss / judgement.champion_loss - 1)
        asked = f"; it had to be lower by more than {judgement.margin_percent:g} %" if judgement.margin_percent else ""
        explained = f"The challenger's loss differs by **{percent:+.2f} %** (below zero: it restores better{asked})."
    return "\n\n".join([compared, explained, *_contest_pictures(cubes, weights, judgement, champion)])


def record_table(weights: Storage, record: PretrainedModel) -> str:
    """The record of a model as a table."""
    recipe, network = record.parameters.training, record.parameters.network
    in_loss = zip(CHANNELS, record.channel_weights or (1, 1, 1), strict=True)
    rows = {
        "version": code(weights.where(version_key(record.run_id))),
        "run id": code(record.run_id),
        "replaces": code(record.replaces) if record.replaces else "none",
        "SHA-256": code(record.outputs[0].sha256),
        "size": f"{record.outputs[0].size:,} bytes",
        "cases": f"{len(record.data)}" if record.data else "not recorded by the cubes",
        "network": f"channels {', '.join(map(str, network.channels))}, merge {network.merge}",
        "corruption": record.parameters.corruption.recipe,
        "device": f"{record.device}, convolutions in {record.precision}" if record.device else "not recorded",
        "weights in the loss": ", ".join(f"{name} {weight:.2f}" for name, weight in in_loss),
        "recipe": f"batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}, seed {recipe.seed}",
        "versions": text(", ".join(f"{name} {version}" for name, version in record.versions.items())),
    }
    return table(("record", ""), rows.items())


def lineage(record: PretrainedModel) -> str:
    """Table of the prepared cases and cubes that the model was made from, and the weights that training began with."""
    rows = []
    for subset, cubes in zip(SUBSETS, record.inputs, strict=False):
        use = "validation" if subset == VALIDATION_SUBSET else "training"
        cases = sum(case.subset == subset for case in record.data)
        rows.append((f"{subset}, {use}", str(cases), text(cubes.name), code(cubes.sha256[:_SHOWN])))
    parts = [table(("subset", "cases", "cubes", "SHA-256 of the cubes"), rows)]
    if len(record.inputs) > len(SUBSETS):  # a model beside the files of cubes
        parts.append(f"Training began with the weights of version {code(str(record.replaces))}.")
    return "\n\n".join(parts)


def embedded(picture: Picture) -> str:
    """A picture as a data URI, so that a page loads it from nowhere else."""
    name = picture.key.removesuffix(".png").replace("/", "-").replace("_", "-")
    return f"![{name}](data:image/png;base64,{base64.b64encode(picture.png).decode()})"


def _compared(made: PretrainedModel, before: PretrainedModel | None) -> str:
    if before is None:
        return "It is the first model here."
    if before.run_id == made.run_id:
        return "It is the model that was there before: nothing had changed."
    cubes = [model.inputs[VALIDATION_SUBSET].sha256 for model in (made, before)]
    comparable = "on the same cubes" if cubes[0] == cubes[1] else "on other cubes, so the losses cannot be compared"
    return (
        f"The model before, {code(before.run_id)}, had a validation loss of {before.best_validation_loss:.5f} "
        f"{comparable}, and {len(before.data)} cases; now there are {len(made.data)}."
    )


def _contest_rows(judgement: Judgement, champion: PretrainedModel) -> Iterator[tuple[str, str, str]]:
    yield "version", code(champion.run_id), code(judgement.run_id) + ("" if judgement.published else ", not published")
    yield "loss on the same validation cubes", loss_text(judgement.champion_loss), loss_text(judgement.challenger_loss)
    before, now = ({case.case_id: case.sha256 for case in one.data} for one in (champion, judgement))
    changed = sum(before[case] != now[case] for case in before.keys() & now.keys())
    added = f"{len(now.keys() - before.keys())} new, {changed} changed, {len(before.keys() - now.keys())} gone"
    yield "cases", str(len(champion.data)), f"{len(judgement.data)} ({added})"
    best, best_now = (f"{one.best_epoch} of {len(one.history)}" for one in (champion, judgement))
    yield "best epoch", best, best_now
    theirs, ours = (flat_settings(one.parameters.model_dump(mode="json")) for one in (champion, judgement))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            yield code(name), text(str(theirs.get(name))), text(str(ours.get(name)))


def _contest_pictures(
    cubes: Storage, weights: Storage, judgement: Judgement, champion: PretrainedModel
) -> Iterator[str]:
    validation = CubeSet([open_cubes(cubes.local(find_cubes(cubes)[VALIDATION_SUBSET]))])
    challenger = run_folder(weights, judgement.run_id)
    files: dict[str, tuple[Path, float | None]] = {
        "champion": (weights.local(version_key(champion.run_id)), judgement.champion_loss)
    }
    if challenger.stat(BEST):
        files["challenger"] = challenger.local(BEST), judgement.challenger_loss
    for name, (file, loss) in files.items():
        title = f"Validation cubes, restored by the {name} (loss {loss_text(loss)})"
        yield embedded(Picture(f"{name}.png", draw_restored_by(file, validation, judgement.parameters, title).png))


def loss_text(loss: float | None) -> str:
    """A loss in digits."""
    return "not finite" if loss is None else f"{loss:.5f}"


def flat_settings(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flat_settings(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat
