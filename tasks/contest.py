"""Champion and challenger side by side, for the page of a retraining: figures, what differs, and pictures."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.markdown import code, text
from tasks.pictures import embedded
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.preparation.cubes import find_cubes, open_cubes
from zssmnet.registry.challenge import JUDGEMENT, Judgement
from zssmnet.registry.runs import workplace_of
from zssmnet.registry.versions import PretrainedModel, find_version, version_key
from zssmnet.report.gallery import Picture, draw_restored_by
from zssmnet.storage import Storage
from zssmnet.storage.records import read_record
from zssmnet.training.checkpoint import BEST
from zssmnet.training.dataset import CubeSet


def contest_section(cubes: Storage, weights: Storage) -> str:
    """The last challenge as a table and two pictures of the same validation cubes; empty if there was no champion."""
    judgement = read_record(weights, JUDGEMENT, Judgement)
    champion = find_version(weights, judgement.champion) if judgement and judgement.champion else None
    if judgement is None or champion is None:
        return ""
    rows = [f"| {name} | {theirs} | {ours} |" for name, theirs, ours in _rows(judgement, champion)]
    table = "\n".join(["| | champion | challenger |", "| --- | --- | --- |", *rows])
    return "\n\n".join([table, _explained(judgement), *_pictures(cubes, weights, judgement, champion)])


def _rows(judgement: Judgement, champion: PretrainedModel) -> Iterator[tuple[str, str, str]]:
    yield "version", code(champion.run_id), code(judgement.run_id) + ("" if judgement.published else ", not published")
    yield "loss on the same validation cubes", _loss(judgement.champion_loss), _loss(judgement.challenger_loss)
    if judgement.gain:
        yield "by the probe, challenger less champion", "", judgement.gain.in_words
    yield "cases", str(len(champion.data)), f"{len(judgement.data)} ({_data_added(champion, judgement)})"
    yield "best epoch", _best_epoch(champion), _best_epoch(judgement)
    theirs, ours = (_flat(one.parameters.model_dump(mode="json")) for one in (champion, judgement))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            yield code(name), text(str(theirs.get(name))), text(str(ours.get(name)))


def _best_epoch(trained: PretrainedModel | Judgement) -> str:
    return f"{trained.best_epoch} of {len(trained.history)}"


def _explained(judgement: Judgement) -> str:
    if judgement.champion_loss is None:
        return "The champion's loss was not finite."
    percent = 100 * (judgement.challenger_loss / judgement.champion_loss - 1)
    asked = f"; it had to be lower by more than {judgement.margin_percent:g} %" if judgement.margin_percent else ""
    return f"The challenger's loss differs by **{percent:+.2f} %** (below zero: it restores better{asked})."


def _data_added(champion: PretrainedModel, judgement: Judgement) -> str:
    before, now = ({case.case_id: case.sha256 for case in one.data} for one in (champion, judgement))
    changed = sum(before[case] != now[case] for case in before.keys() & now.keys())
    return f"{len(now.keys() - before.keys())} new, {changed} changed, {len(before.keys() - now.keys())} gone"


def _pictures(cubes: Storage, weights: Storage, judgement: Judgement, champion: PretrainedModel) -> Iterator[str]:
    validation = CubeSet([open_cubes(cubes.local(find_cubes(cubes)[VALIDATION_SUBSET]))])
    challenger = workplace_of(weights, judgement.run_id)
    files: list[tuple[str, Path, float | None]] = [
        ("champion", weights.local(version_key(champion.run_id)), judgement.champion_loss)
    ]
    if challenger.stat(BEST):
        files.append(("challenger", challenger.local(BEST), judgement.challenger_loss))
    for name, file, loss in files:
        title = f"Validation cubes, restored by the {name} (loss {_loss(loss)})"
        picture = draw_restored_by(file, validation, judgement.parameters, title)
        yield embedded(Picture(f"{name}.png", picture.png))


def _loss(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.5f}"


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return flat
