"""Runners of stages: threads of this process, or a Prefect flow (`tasks.runner`). Stages see this interface alone.

A runner maps a function over items, and has a progress that learns what begins, advances and ends, and which section
of the run's page is new. A function that is mapped finds the progress with `current_progress`.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Protocol, TypeVar

from pydantic import BaseModel

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Summary(BaseModel):
    """Outcome of a stage: counts, addresses and reasons."""

    @property
    def outcome(self) -> tuple[str, str]:
        """Name and message of the state in which it ends."""
        return "Completed", ""


class Progress:
    """Learns how stages go, from several threads. This one shows nothing; others override what they show."""

    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        """A stage of ``total`` steps begins, or of at most as many; a step is a case, an epoch or a trial."""

    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        """Steps of a stage are done, just now or by an earlier run."""

    def note(self, stage: str, text: str) -> None:
        """A remark on a stage, such as its last loss."""

    def end(self, stage: str) -> None:
        """The work of a stage is done, and is published next; an exception raised here prevents that."""

    def show(self, section: str, draw: Callable[[], str]) -> None:
        """A section of the run's page is new or has changed; ``draw`` makes its Markdown, where there is a page."""


class Runner(Protocol):
    """Runs the parts of a stage."""

    @property
    def progress(self) -> Progress:
        """Progress display of the stage."""

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Generator[ResultT]:
        """Results of a function of a module, in order of completion; an item's ``str`` names the part.

        Where it is closed early, by an interrupt or an error, no further item is begun.
        """


_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


def current_progress() -> Progress | None:
    """The progress of the stage that this code is a part of; None on another machine, which shows nothing."""
    return _progress.get()


@contextmanager
def progress_shown_on(progress: Progress) -> Iterator[None]:
    """Let what is mapped inside find its progress."""
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def core_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class PlainRunner:
    """Runs parts in threads of this process: SimpleITK releases Python's lock, and each of our filters takes one core.

    A single part runs in the calling thread.

    Args:
        progress: where progress is shown; none: nowhere.
        workers: number of threads; none: one a core.
    """

    def __init__(self, progress: Progress | None = None, workers: int | None = None) -> None:
        self.progress = progress or Progress()
        self._workers = workers or core_count()

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Generator[ResultT]:
        """See `Runner`."""
        with progress_shown_on(self.progress):
            context = copy_context()
        if len(items) == 1 or self._workers == 1:
            yield from (context.copy().run(function, item) for item in items)
            return
        pool = ThreadPoolExecutor(self._workers)
        try:
            futures = [pool.submit(context.copy().run, function, item) for item in items]
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
