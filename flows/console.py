"""Progress bars in a terminal."""

import sys
from contextlib import ExitStack

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining


class Bars(ExitStack):
    """A bar a stage, on standard error."""

    def __init__(self) -> None:
        super().__init__()
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
        self.enter_context(self._progress)

    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        """A new bar."""
        self._bars[stage] = self._progress.add_task(stage, total=total, note="")

    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        """Let a bar grow."""
        self._progress.advance(self._bars[stage], steps)

    def note(self, stage: str, text: str) -> None:
        """Write beside a bar."""
        self._progress.update(self._bars[stage], note=text)
