"""Progress of a plain command, on standard error: progress bars in a terminal, log lines elsewhere."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from typing_extensions import override

from zssmnet.runner import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

FORMAT = "%(asctime)s.%(msecs)03d | %(levelname)-7s | %(message)s"


@contextmanager
def shown_progress(verbose: bool) -> Iterator[Progress]:
    """Progress bars in a terminal, with warnings above them; log lines elsewhere, or where they are asked for."""
    if verbose or not sys.stderr.isatty():
        _log(logging.INFO)
        yield Progress()
        return
    with Bars() as bars:
        _log(logging.WARNING)  # to the standard error that the bars have replaced: above them
        yield bars


def _log(level: int) -> None:
    logging.raiseExceptions = False  # nobody reads them any more: that is no reason to say so
    logging.basicConfig(level=logging.WARNING, format=FORMAT, datefmt="%H:%M:%S", force=True)
    logging.getLogger("zssmnet").setLevel(level)
    logging.captureWarnings(True)


class Bars(Progress):
    """A bar a stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            TextColumn("{task.description:9}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=sys.stderr),
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._rich.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._rich.stop()

    @override
    def begin(self, stage: str, total: int, unit: str, may_end_early: bool = False) -> None:
        self._bars[stage] = self._rich.add_task(stage, total=total, note="")

    @override
    def advance(self, stage: str, steps: int = 1, earlier: bool = False) -> None:
        self._rich.advance(self._bars[stage], steps)

    @override
    def note(self, stage: str, text: str) -> None:
        self._rich.update(self._bars[stage], note=text)
