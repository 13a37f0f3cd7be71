"""The page of all models of a working root, in Markdown: versions, challengers, what differs, who decided and why."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zssmnet.config import PretrainConfig
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.probe.note import notes_of
from zssmnet.registry.challenge import Judgement, judgements
from zssmnet.registry.rollbacks import rollback_name, rollbacks
from zssmnet.registry.versions import MODEL, list_versions, stable_model, version_key
from zssmnet.report.gallery import Picture
from zssmnet.report.markdown import code, text
from zssmnet.report.model_page import EXPLAINED_VARIANCE, embedded, flat_settings, loss_text
from zssmnet.report.training import compared_losses
from zssmnet.storage import Storage
from zssmnet.storage.records import record_key
from zssmnet.training.checkpoint import EpochResult

_MOST = 20
"""Models and decisions on the page, the latest."""


@dataclass(frozen=True)
class _Model:
    """A version, or a challenger that was not published (``made`` is its judgement's time)."""

    run_id: str
    made: str
    cases: int
    loss: float
    cubes: str
    parameters: PretrainConfig
    history: tuple[EpochResult, ...]
    is_stable: bool = False
    is_published: bool = True


def models_page(weights: Storage) -> str:
    """The page; empty where no model was published."""
    models = sorted(_models(weights), key=lambda one: one.made)
    if not models:
        return ""
    latest = models[-_MOST:]
    lines = [
        f"Models: {len(models)}, the latest first; **in bold** the stable one, {code(weights.where(MODEL))}. Losses "
        f"can be compared where the validation cubes are the same. {EXPLAINED_VARIANCE}",
        _table(
            ("model", "made", "cases", "validation loss", "on cubes", "explained variance", "probe"),
            (_row(weights, one) for one in reversed(latest)),
        ),
        embedded(_curves(latest)),
    ]
    if differences := [*_differences(latest)]:
        lines += ["Settings that differ from those of the stable model:", _table(("model", "settings"), differences)]
    if decisions := sorted(_decisions(weights), reverse=True)[:_MOST]:
        lines += ["Decisions, the latest first:", _table(("when", "what", "by whom or what, and why"), decisions)]
    return "\n\n".join(lines)


def _models(weights: Storage) -> Iterator[_Model]:
    stable, versions = stable_model(weights), list_versions(weights)
    for one in versions:
        yield _Model(
            one.run_id,
            _when(weights, version_key(one.run_id)),
            len(one.data),
            one.best_validation_loss,
            one.inputs[VALIDATION_SUBSET].sha256[:8],
            one.parameters,
            one.history,
            is_stable=bool(stable and stable.run_id == one.run_id),
        )
    published = {one.run_id for one in versions}
    for name, judged in judgements(weights):
        if judged.run_id not in published:
            made, cases, loss = _when(weights, record_key(name)), len(judged.data), judged.challenger_loss
            yield _Model(
                judged.run_id, made, cases, loss, "", judged.parameters, judged.history, is_published=judged.published
            )


def _row(weights: Storage, model: _Model) -> tuple[str, ...]:
    name = code(model.run_id) + ("" if model.is_published else ", not published")
    best = min(model.history, key=lambda one: one.validation_loss)
    return (
        f"**{name}**" if model.is_stable else name,
        model.made,
        str(model.cases),
        loss_text(model.loss),
        code(model.cubes) if model.cubes else "",
        "" if best.explained is None else f"{best.explained:.1%}",
        text("; ".join(f"{note.task}: {note.verdict}" for note in notes_of(weights, model.run_id))),
    )


def _curves(models: Sequence[_Model]) -> Picture:
    curves = [
        (one.run_id, [(epoch.epoch, epoch.validation_loss) for epoch in one.history], one.is_stable) for one in models
    ]
    return Picture("all_losses.png", compared_losses(curves, "Validation loss of all models"))


def _differences(models: Sequence[_Model]) -> Iterator[tuple[str, str]]:
    settings = {one.run_id: flat_settings(one.parameters.model_dump(mode="json")) for one in models}
    stable = next((settings[one.run_id] for one in models if one.is_stable), None)
    for run_id, own in reversed(settings.items()):
        other = [name for name in sorted(own) if stable and own[name] != stable.get(name)]
        if other:
            yield code(run_id), text("; ".join(f"{name} {own[name]}" for name in other))


def _decisions(weights: Storage) -> Iterator[tuple[str, str, str]]:
    for name, judged in judgements(weights):
        what = "published" if judged.published else "not published"
        yield _when(weights, record_key(name)), f"{code(judged.run_id)} {what}", _contest(judged)
    for one in rollbacks(weights):
        why = f"{text(one.by)}: {text(one.comment) or 'no comment'}"
        yield _when(weights, record_key(rollback_name(one.number))), f"rolled back to {code(one.version)}", why


def _contest(judged: Judgement) -> str:
    losses = f"loss {loss_text(judged.challenger_loss)} against {loss_text(judged.champion_loss)}"
    asked = f", lower by {judged.margin_percent:g} % was asked for" if judged.margin_percent else ""
    return f"challenge of {code(str(judged.champion))}: {losses}{asked}"


def _when(weights: Storage, key: str) -> str:
    entry = weights.stat(key)
    return f"{entry.modified.astimezone():%Y-%m-%d %H:%M:%S}" if entry else "?"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
