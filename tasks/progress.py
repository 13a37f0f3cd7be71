"""Progress on the page of a flow run in Prefect's UI: an artifact a stage, and one, ``summary``, of the run's sections.

A server that does not answer is no reason to stop the work: then the artifacts stay behind for a while.
"""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Self, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from typing_extensions import override

from tasks.attention import Signs, check_advancing
from tasks.run_control import ask_now, check_cancelled, check_suspended
from tasks.server import server_may_be_away
from zssmnet.runner import Progress

UPDATE_EVERY_S = 2.0
"""Seconds between two looks at what has changed: each artifact that has is a request to Prefect's server."""


@dataclass(eq=False)
class _Stage:
    name: str
    total: int
    unit: str
    may_end_early: bool
    done: int = 0
    skipped: int = 0
    text: str = ""
    began: float = field(default_factory=time.monotonic)
    artifact: UUID | None = None

    def description(self) -> str:
        """Steps done, the remark, time elapsed and left."""
        elapsed = time.monotonic() - self.began
        parts = [f"{self.done} of {self.total} {self.unit}", self.text, f"{_duration(elapsed)} so far"]
        if (fresh := self.done - self.skipped) > 0 and self.done < self.total:
            left = _duration(elapsed * (self.total - self.done) / fresh)
            parts.append(f"{'at most' if self.may_end_early else 'about'} {left} left")
        return " · ".join(part for part in parts if part)

    def publish(self) -> None:
        """Create or update the artifact."""
        percent = 100.0 * self.done / self.total if self.total else 100.0
        if self.artifact is None:
            made = create_progress_artifact(percent, key=f"{self.name}-progress", description=self.description())
            self.artifact = cast(UUID, made)
        else:
            update_progress_artifact(self.artifact, percent, self.description())


class Page:
    """A Markdown artifact of the present run, whose text changes."""

    def __init__(self, key: str, description: str) -> None:
        self._key = key
        self._description = description
        self._artifact: UUID | None = None

    def publish(self, markdown: str) -> None:
        """Create the artifact, or give it a new text."""
        if self._artifact is None:
            made = create_markdown_artifact(key=self._key, markdown=markdown, description=self._description)
            self._artifact = cast(UUID, made)
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._artifact, ArtifactUpdate(data=markdown))


class RunProgress(Progress):
    """Shows the progress of the present flow run on its page; while a training advances, users may end it here.

    A thread sends what has changed, since Prefect's client tries for a minute to reach a server that is away, and work
    does not wait for that. It also reports a run that does not advance any more.

    Attributes:
        signs: of the present stage; None before its first step and after its last.
    """

    def __init__(self) -> None:
        self.signs: Signs | None = None
        self._stages: dict[str, _Stage] = {}
        self._sections: dict[str, str] = {}
        self._page = Page("summary", "What came of the run")
        self._changed: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._send,), daemon=True, name="progress")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    @override
    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        self.signs = None
        with self._lock:
            new = self._stages[stage] = _Stage(stage, total, unit, may_end_early)
            self._changed.add(new.publish)

    @override
    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        check_suspended()
        with self._lock:
            known = self._stages[stage]
            known.done += steps
            known.skipped += steps * earlier  # steps of an earlier run say nothing about how long one takes
            self._advanced(known)

    @override
    def note(self, stage: str, text: str) -> None:
        check_cancelled()
        with self._lock:
            self._stages[stage].text = text
            self._advanced(self._stages[stage])

    @override
    def end(self, stage: str) -> None:
        self.signs = None
        ask_now()
        check_cancelled()
        check_suspended()

    @override
    def show(self, section: str, draw: Callable[[], str]) -> None:
        if markdown := draw():
            with self._lock:
                self._sections[section] = markdown
                self._changed.add(self._publish_page)

    def _publish_page(self) -> None:
        with self._lock:
            page = "\n\n".join(f"## {name}\n\n{content}" for name, content in self._sections.items())
        self._page.publish(page)

    def _advanced(self, stage: _Stage) -> None:
        now, before = time.monotonic(), self.signs
        longest = max(before.longest, now - before.last) if before else 0.0
        self.signs = Signs(now, longest) if stage.done < stage.total else None
        self._changed.add(stage.publish)

    def _send(self) -> None:
        while not self._ended.wait(UPDATE_EVERY_S):
            self._send_changes()
            check_advancing(self.signs)
        self._send_changes()

    def _send_changes(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, set()
        for publish in changed:
            with server_may_be_away():
                publish()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
