"""The page of a run that everybody opens: one artifact, ``summary``, which grows while the run goes on."""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from tasks.markdown import code, text
from tasks.pictures import EXPLAINED_VARIANCE, embedded
from tasks.progress import server_may_be_away
from zssmnet.data.splits import VALIDATION_SUBSET
from zssmnet.preparation.cubes import find_cubes, open_cubes
from zssmnet.registry.challenge import JUDGEMENT, Judgement
from zssmnet.registry.runs import workplace_of
from zssmnet.registry.versions import MODEL, PretrainedModel, find_version, version_key
from zssmnet.report.gallery import LOSS_CURVES, RESTORED_CUBES, Picture, draw_restored_by
from zssmnet.storage import Storage
from zssmnet.storage.records import read_record
from zssmnet.training.checkpoint import BEST
from zssmnet.training.dataset import CubeSet

_MOST_ROWS = 50


class RunPage:
    """What the present run has come to, in sections."""

    def __init__(self) -> None:
        self._sections: dict[str, str] = {}
        self._artifact: UUID | None = None
        _page.set(self)

    def put(self, title: str, markdown: str) -> None:
        """Write a section, or write it anew."""
        self._sections[title] = markdown
        self.refresh()

    def refresh(self) -> None:
        """Bring the links to the parts of the run up to date."""
        with server_may_be_away():
            parts = [f"## {name}\n\n{section}" for name, section in self._sections.items()]
            whole = "\n\n".join([*parts, f"## Runs\n\n{_links()}"])
            if self._artifact is None:
                made = create_markdown_artifact(key="summary", markdown=whole, description="What came of the run")
                self._artifact = cast(UUID, made)
            else:
                with get_client(sync_client=True) as client:
                    client.update_artifact(self._artifact, ArtifactUpdate(data=whole))


_page: ContextVar[RunPage | None] = ContextVar("run page", default=None)


def refresh_page() -> None:
    """A part of the present run has changed: its page, if it has one, is to show that."""
    if page := _page.get():
        page.refresh()


def cases_section(used: int, left_out: Mapping[str, str], with_warnings: int) -> str:
    """How many cases are used, and which are not, with the reasons."""
    lines = [f"**{used} of {used + len(left_out)} cases used**"]
    if left_out:
        rows = [f"| {code(case)} | {text(reason)} |" for case, reason in list(left_out.items())[:_MOST_ROWS]]
        lines.append("\n".join(["| left out | reason |", "| --- | --- |", *rows]))
        if len(left_out) > _MOST_ROWS:
            lines.append(f"and {len(left_out) - _MOST_ROWS} more, in the table `cases` of the run that prepared them")
    if with_warnings:
        lines.append(f"{with_warnings} of those used have warnings: see the table `cases`.")
    return "\n\n".join(lines)


def model_section(weights: Storage, reports: Storage, made: PretrainedModel, before: PretrainedModel | None) -> str:
    """The published model, how it compares with the one before, and its pictures."""
    explained = made.metrics.get("explained_variance")
    lines = [
        f"{code(weights.where(MODEL))}, kept beside it as {code(version_key(made.run_id))}",
        f"validation loss **{made.best_validation_loss:.5f}** in epoch {made.best_epoch} of {len(made.history)}"
        + (f", explained variance **{explained:.1%}**. {EXPLAINED_VARIANCE}" if explained is not None else ""),
        _compared(made, before),
    ]
    pictures = (Picture(key, reports.read(key)) for key in (LOSS_CURVES, RESTORED_CUBES) if reports.stat(key))
    return "\n\n".join([*lines, *map(embedded, pictures)])


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


def _links() -> str:
    """The runs that are parts of the present one, with their states."""
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    parts = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[context.flow_run.id]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=parts, sort=FlowRunSort.EXPECTED_START_TIME_ASC)
    lines = (
        f"- [{text(run.name)}]({url_for(run)}): {text(run.state.name or '') if run.state else 'not started'}"
        for run in runs
    )
    return "\n".join(lines) or "none yet"


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
