"""Progress bars in a terminal."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining


class Bars:
    """A bar a stage, on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:9}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Remaining(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=sys.stderr),
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        """A new bar."""
        self._bars[stage] = self._progress.add_task(stage, total=total, note="")

    def advance(self, stage: str, steps: int = 1) -> None:
        """Let a bar grow."""
        self._progress.advance(self._bars[stage], steps)

    def skip(self, stage: str, steps: int) -> None:
        """Let a bar grow by what an earlier run has done."""
        self.advance(stage, steps)

    def note(self, stage: str, text: str) -> None:
        """Write beside a bar."""
        self._progress.update(self._bars[stage], note=text)
