"""Progress on the page of a flow run in Prefect's UI: an artifact a stage, and one, ``summary``, of the run's sections.

A server that does not answer is no reason to stop the work: then the artifacts stay behind for a while.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Self, cast
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException
from typing_extensions import override

from tasks.run_control import check_cancelled, check_now, check_suspended
from zssmnet.runner import Progress

UPDATE_EVERY_S = 2.0
"""Seconds between two updates of an artifact: each is a request to Prefect's server."""


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


@dataclass
class Signs:
    """When a stage last showed that it advances, and its longest silence before that, in seconds."""

    last: float
    longest: float = 0.0


class RunProgress(Progress):
    """Shows the progress of the present flow run on its page; while a training advances, users may end it here.

    Attributes:
        signs: of the present stage; None before its first step and after its last.
    """

    def __init__(self) -> None:
        self.signs: Signs | None = None
        self._stages: dict[str, _Stage] = {}
        self._sections: dict[str, str] = {}
        self._page: UUID | None = None
        self._lock = threading.Lock()
        self._messages = PendingMessages()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._messages.close()

    @override
    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        self.signs = None
        with server_may_be_away():
            artifact = create_progress_artifact(0.0, key=f"{stage}-progress", description=f"0 of {total} {unit}")
            self._stages[stage] = _Stage(cast(UUID, artifact), total, unit, may_end_early)

    @override
    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        check_suspended()
        with self._lock:
            if known := self._stages.get(stage):
                known.done += steps
                known.skipped += steps * earlier  # steps of an earlier run say nothing about how long one takes
                self._advanced(known)
                self._show(known)

    @override
    def note(self, stage: str, text: str) -> None:
        check_cancelled()
        with self._lock:
            if known := self._stages.get(stage):
                known.text = text
                self._advanced(known)
                self._show(known)

    @override
    def end(self, stage: str) -> None:
        self.signs = None
        check_now()

    @override
    def show(self, section: str, draw: Callable[[], str]) -> None:
        if markdown := draw():
            self._sections[section] = markdown
            page = "\n\n".join(f"## {name}\n\n{content}" for name, content in self._sections.items())
            self._messages.put("page", partial(self._publish, page))

    def _publish(self, page: str) -> None:
        if self._page is None:
            made = create_markdown_artifact(key="summary", markdown=page, description="What came of the run")
            self._page = cast(UUID, made)
        else:
            update_artifact(self._page, page)

    def _advanced(self, stage: _Stage) -> None:
        now, before = time.monotonic(), self.signs
        longest = max(before.longest, now - before.last) if before else 0.0
        self.signs = Signs(now, longest) if stage.done < stage.total else None

    def _show(self, stage: _Stage) -> None:
        now = time.monotonic()
        if now - stage.shown < UPDATE_EVERY_S and stage.done < stage.total:
            return
        stage.shown = now
        update = partial(update_progress_artifact, stage.artifact, stage.percent, stage.description())
        self._messages.put(str(stage.artifact), update)


class PendingMessages:
    """Sends to Prefect's server in a thread of its own, of each kind only the latest, in the context of its maker.

    Prefect's client tries for a minute to reach a server that is away: work does not wait for that.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Callable[[], object]] = {}
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=copy_context().run, args=(self._send,), daemon=True, name="messages")
        self._thread.start()

    def put(self, kind: str, job: Callable[[], object]) -> None:
        """Send soon, in place of anything of this kind that still waits; threads that call this need no context."""
        with self._changed:
            self._jobs[kind] = job
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


def update_artifact(artifact: UUID, markdown: str) -> None:
    """Give an artifact a new text."""
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=markdown))


@contextmanager
def server_may_be_away() -> Iterator[None]:
    """Ignore errors of a server that does not answer: progress of that time is lost, the work continues."""
    with suppress(httpx.HTTPError, PrefectException, RuntimeError):  # Prefect's client raises the last one, too
        yield


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
