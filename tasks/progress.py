"""Displays of progress: bars in a terminal, and artifacts on the run's page in Prefect's UI."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

UPDATE_EVERY_S = 2.0
"""Seconds between two updates of an artifact: each is a request to Prefect's server."""


class Display(Protocol):
    """Shows progress, a line a stage; called from several threads."""

    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        """A stage of ``total`` steps begins, or of at most as many; a step is a case, or an epoch."""

    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        """Steps of a stage are done, just now or by an earlier run."""

    def note(self, stage: str, text: str) -> None:
        """A remark on a stage."""


class Several:
    """Shows progress on several displays, or on none."""

    def __init__(self, *displays: Display) -> None:
        self._displays = displays

    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        """Begin on all of them."""
        for one in self._displays:
            one.begin(stage, total, unit, may_end_early)

    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        """Advance on all of them."""
        for one in self._displays:
            one.advance(stage, steps, earlier)

    def note(self, stage: str, text: str) -> None:
        """Write on all of them."""
        for one in self._displays:
            one.note(stage, text)


@dataclass
class _Stage:
    artifact: UUID
    total: int
    unit: str
    may_end_early: bool = False
    done: int = 0
    skipped: int = 0
    text: str = ""
    began: float = field(default_factory=time.monotonic)
    shown: float = 0.0

    @property
    def percent(self) -> float:
        return 100.0 * self.done / self.total if self.total else 100.0

    def description(self) -> str:
        """Steps done, the remark, time elapsed and left."""
        elapsed = time.monotonic() - self.began
        parts = [f"{self.done} of {self.total} {self.unit}", self.text, f"{_duration(elapsed)} so far"]
        if (fresh := self.done - self.skipped) > 0 and self.done < self.total:
            left = _duration(elapsed * (self.total - self.done) / fresh)
            parts.append(f"{'at most' if self.may_end_early else 'about'} {left} left")
        return " · ".join(part for part in parts if part)


class ProgressArtifacts:
    """An artifact a stage, ``<stage>-progress``, on the run's page, brought up to date while the run goes on.

    A server that does not answer is no reason to stop the work: then the artifact stays behind for a while.
    """

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()

    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        """A new artifact."""
        with server_may_be_away():
            artifact = create_progress_artifact(0.0, key=f"{stage}-progress", description=f"0 of {total} {unit}")
            self._stages[stage] = _Stage(cast(UUID, artifact), total, unit, may_end_early)

    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        """Let the percentage grow; steps of an earlier run tell nothing of what one takes."""
        with self._lock:
            if known := self._stages.get(stage):
                known.done += steps
                known.skipped += steps * earlier
                self._show(known)

    def note(self, stage: str, text: str) -> None:
        """Write beside the percentage."""
        with self._lock:
            if known := self._stages.get(stage):
                known.text = text
                self._show(known)

    def _show(self, stage: _Stage) -> None:
        now = time.monotonic()
        if now - stage.shown < UPDATE_EVERY_S and stage.done < stage.total:
            return
        stage.shown = now
        send(str(stage.artifact), partial(update_progress_artifact, stage.artifact, stage.percent, stage.description()))


class Outbox:
    """Sends to Prefect's server in a thread of its own, of each kind only the latest.

    Prefect's client tries for a minute to reach a server that is away: work does not wait for that.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Callable[[], object]] = {}
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._send, daemon=True, name="outbox")
        self._thread.start()

    def put(self, kind: str, job: Callable[[], object]) -> None:
        """Send, as what is to be sent from here, in place of anything of this kind that still waits."""
        with self._changed:
            self._jobs[kind] = partial(copy_context().run, job)
            self._changed.notify()

    def close(self) -> None:
        """Send what still waits, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _send(self) -> None:
        while job := self._next():
            with server_may_be_away():
                job()

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            return self._jobs.pop(next(iter(self._jobs))) if self._jobs else None


_display: ContextVar[Display | None] = ContextVar("display", default=None)
_outbox: ContextVar[Outbox | None] = ContextVar("outbox", default=None)


def send(kind: str, job: Callable[[], object]) -> None:
    """Send something to Prefect's server, soon; see `Outbox`."""
    if outbox := _outbox.get():
        outbox.put(kind, job)
        return
    with server_may_be_away():
        job()


def display() -> Display:
    """The display of this context."""
    return _display.get() or Several()


def is_shown() -> bool:
    """Whether this context has a display: a task on another machine has none."""
    return _display.get() is not None


@contextmanager
def shown_on(chosen: Display) -> Iterator[None]:
    """Show the progress of what runs inside on a display."""
    token = _display.set(chosen)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def shown_in_run() -> Iterator[None]:
    """Show the progress of what runs inside on the page of the flow run as well."""
    outbox = Outbox()
    token = _outbox.set(outbox)
    try:
        with shown_on(Several(display(), ProgressArtifacts())):
            yield
    finally:
        _outbox.reset(token)
        outbox.close()


def mark_run(remark: str) -> None:
    """Add a remark to the name of the present flow run, where everybody sees it."""
    context = FlowRunContext.get()
    if context and context.flow_run and remark not in context.flow_run.name:
        context.flow_run.name = f"{context.flow_run.name} · {remark}"
        send("name", partial(_rename, context.flow_run.id, context.flow_run.name))


def _rename(run: UUID, name: str) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(run, name)


@contextmanager
def server_may_be_away() -> Iterator[None]:
    """What is shown while the server does not answer is lost; that is no reason to stop the work."""
    with suppress(httpx.HTTPError, PrefectException, RuntimeError):  # Prefect's client raises the last one, too
        yield


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
