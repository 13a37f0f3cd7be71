"""Files of tensors: what interrupts their writing or reading comes through as it is."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from zssmnet.training.tensor_files import load_tensors, save_tensors


class Interruption(BaseException):
    """As what SIGTERM or an interrupt raises."""


@pytest.fixture
def interrupted() -> Iterator[Callable[[Callable[[], object], float], None]]:
    """Does work until it is interrupted, after so many seconds of processor time, wherever it is then."""
    is_over = False

    def interrupt(*_: object) -> NoReturn:
        nonlocal is_over
        is_over = True
        raise Interruption

    def do(work: Callable[[], object], processor_time_s: float) -> None:
        nonlocal is_over
        is_over = False
        signal.setitimer(signal.ITIMER_PROF, processor_time_s)
        while not is_over:  # Python drops what is raised while an object is finalized
            work()

    before = signal.signal(signal.SIGPROF, interrupt)
    yield do
    signal.signal(signal.SIGPROF, before)


@pytest.mark.filterwarnings("ignore:.*unclosed file")  # interrupted between open and with
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("does", ["write", "read"])
def test_an_interruption_is_raised_as_it_is(
    does: str, interrupted: Callable[[Callable[[], object], float], None], tmp_path: Path
) -> None:
    """`torch.save`, in the midst of a write into a file, makes an internal error of it, or ends the whole process."""
    path, content = tmp_path / "tensors", {f"weight {number}": torch.zeros(1000) for number in range(100)}
    save_tensors(content, path)
    work: dict[str, Callable[[], object]] = {
        "write": lambda: save_tensors(content, path),
        "read": lambda: load_tensors(path),
    }
    for tenths_of_a_millisecond in range(10, 40):
        with contextlib.suppress(Interruption):
            interrupted(work[does], tenths_of_a_millisecond / 10_000)
