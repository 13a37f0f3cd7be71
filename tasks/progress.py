"""Who is told how far the work is: nobody, unless a terminal (or another display) asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Display(Protocol):
    """Shows progress, a line a stage; called from several threads."""

    def begin(self, stage: str, total: int) -> None:
        """A stage of ``total`` steps begins."""

    def advance(self, stage: str, steps: int = 1) -> None:
        """Steps of a stage are done."""

    def note(self, stage: str, text: str) -> None:
        """What there is to say about a stage."""


class Silent:
    """Shows nothing."""

    def begin(self, stage: str, total: int) -> None:
        """Show nothing."""

    def advance(self, stage: str, steps: int = 1) -> None:
        """Show nothing."""

    def note(self, stage: str, text: str) -> None:
        """Show nothing."""


_display: ContextVar[Display | None] = ContextVar("display", default=None)


def display() -> Display:
    """The display of this context."""
    return _display.get() or Silent()


@contextmanager
def shown_on(chosen: Display) -> Iterator[None]:
    """Show the progress of what runs inside on a display."""
    token = _display.set(chosen)
    try:
        yield
    finally:
        _display.reset(token)
