"""The page of all models of a working root, in Markdown: versions, challengers, what differs, who decided and why."""

from collections.abc import Iterator, Sequence
from operator import itemgetter

from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.probe.note import notes_of
from zssmnet.registry.challenge import Judgement, judgements
from zssmnet.registry.rollbacks import rollback_name, rollbacks
from zssmnet.registry.versions import MODEL, PretrainedModel, list_versions, stable_model, version_key
from zssmnet.report.gallery import Picture
from zssmnet.report.markdown import code, table, text
from zssmnet.report.model_page import EXPLAINED_VARIANCE, embedded, flat_settings, loss_text
from zssmnet.report.training import compared_losses
from zssmnet.storage import Storage
from zssmnet.storage.records import record_key

_MOST = 20
"""Models and decisions on the page, the latest."""
_COLUMNS = ("model", "made", "cases", "validation loss", "on cubes", "explained variance", "probe")

_Model = PretrainedModel | Judgement
"""A version, or a challenger without one."""


def models_page(weights: Storage) -> str:
    """The page; empty where no model was published."""
    models = sorted(_models(weights), key=itemgetter(0))
    if not models:
        return ""
    stable, latest = stable_model(weights), models[-_MOST:]
    stable_id = stable.run_id if stable else ""
    curves = [
        (one.run_id, [(epoch.epoch, epoch.validation_loss) for epoch in one.history], one.run_id == stable_id)
        for _, one in latest
    ]
    lines = [
        f"Models: {len(models)}, the latest first; **in bold** the stable one, {code(weights.where(MODEL))}. Losses "
        f"can be compared where the validation cubes are the same. {EXPLAINED_VARIANCE}",
        table(_COLUMNS, (_row(weights, made, one, one.run_id == stable_id) for made, one in reversed(latest))),
        embedded(Picture("all_losses.png", compared_losses(curves, "Validation loss of all models"))),
    ]
    if differences := [*_differences([one for _, one in latest], stable_id)]:
        lines += ["Settings that differ from those of the stable model:", table(("model", "settings"), differences)]
    if decisions := sorted(_decisions(weights), reverse=True)[:_MOST]:
        lines += ["Decisions, the latest first:", table(("when", "what", "by whom or what, and why"), decisions)]
    return "\n\n".join(lines)


def _models(weights: Storage) -> Iterator[tuple[str, _Model]]:
    """Versions, and challengers that have none, each with the time when it was published or judged."""
    versions = list_versions(weights)
    for one in versions:
        yield _when(weights, version_key(one.run_id)), one
    published = {one.run_id for one in versions}
    for name, judged in judgements(weights):
        if judged.run_id not in published:
            yield _when(weights, record_key(name)), judged


def _row(weights: Storage, made: str, model: _Model, is_stable: bool) -> tuple[str, ...]:
    if isinstance(model, PretrainedModel):
        name, loss, cubes = code(model.run_id), model.best_validation_loss, model.inputs[VALIDATION_SUBSET].sha256[:8]
    else:
        name = code(model.run_id) + ("" if model.published else ", not published")
        loss, cubes = model.challenger_loss, ""
    best = min(model.history, key=lambda one: one.validation_loss)
    return (
        f"**{name}**" if is_stable else name,
        made,
        str(len(model.data)),
        loss_text(loss),
        code(cubes) if cubes else "",
        "" if best.explained is None else f"{best.explained:.1%}",
        text("; ".join(f"{note.task}: {note.verdict}" for note in notes_of(weights, model.run_id))),
    )


def _differences(models: Sequence[_Model], stable_id: str) -> Iterator[tuple[str, str]]:
    settings = {one.run_id: flat_settings(one.parameters.model_dump(mode="json")) for one in models}
    stable = settings.get(stable_id)
    for run_id, own in reversed(settings.items()):
        other = [f"{name} {own[name]}" for name in sorted(own) if stable and own[name] != stable.get(name)]
        if other:
            yield code(run_id), text("; ".join(other))


def _decisions(weights: Storage) -> Iterator[tuple[str, str, str]]:
    for name, judged in judgements(weights):
        what = "published" if judged.published else "not published"
        losses = f"loss {loss_text(judged.challenger_loss)} against {loss_text(judged.champion_loss)}"
        asked = f", lower by {judged.margin_percent:g} % was asked for" if judged.margin_percent else ""
        contest = f"challenge of {code(str(judged.champion))}: {losses}{asked}"
        yield _when(weights, record_key(name)), f"{code(judged.run_id)} {what}", contest
    for one in rollbacks(weights):
        why = f"{text(one.by)}: {text(one.comment) or 'no comment'}"
        yield _when(weights, record_key(rollback_name(one.number))), f"rolled back to {code(one.version)}", why


def _when(weights: Storage, key: str) -> str:
    entry = weights.stat(key)
    return f"{entry.modified.astimezone():%Y-%m-%d %H:%M:%S}" if entry else "?"
