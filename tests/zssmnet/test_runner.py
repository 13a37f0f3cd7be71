"""The plain runner: order of results, errors, threads, and how parts find the progress."""

import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from zssmnet.runner import PlainRunner, Progress, core_count, current_progress

CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


class Begun:
    """Items that have begun; each takes a moment."""

    def __init__(self, failing: Sequence[int] = (), takes_s: float = 0.02) -> None:
        self.items: list[int] = []
        self._failing = failing
        self._takes_s = takes_s

    def __call__(self, item: int) -> int:
        self.items.append(item)
        if item in self._failing:
            raise ValueError(item)
        time.sleep(self._takes_s)
        return item


def test_results_come_in_order_of_completion() -> None:
    fast_is_seen = threading.Event()

    def part(name: str) -> str:
        if name == "slow":
            assert fast_is_seen.wait(60)
        return name

    results = PlainRunner(workers=2).map(part, ["slow", "fast"])
    assert next(results) == "fast"
    fast_is_seen.set()
    assert list(results) == ["slow"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_is_raised_and_nothing_more_is_begun(workers: int) -> None:
    begun = Begun(failing=[0])
    with pytest.raises(ValueError, match="0"):
        list(PlainRunner(workers=workers).map(begun, range(200)))
    seen = len(begun.items)
    assert seen < 200
    time.sleep(0.1)
    assert len(begun.items) == seen  # and what had begun has ended


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_more_is_begun_once_it_is_closed(workers: int) -> None:
    begun = Begun()
    results = PlainRunner(workers=workers).map(begun, range(200))
    next(results)
    results.close()
    assert len(begun.items) < 200


def test_a_single_part_and_a_single_worker_run_in_the_calling_thread() -> None:
    def thread(item: int) -> int:
        return threading.get_ident()

    assert list(PlainRunner(workers=4).map(thread, [0])) == [threading.get_ident()]
    assert list(PlainRunner(workers=1).map(thread, [0, 1])) == [threading.get_ident()] * 2
    assert threading.get_ident() not in list(PlainRunner(workers=2).map(thread, [0, 1]))


def test_no_parts_give_no_results() -> None:
    assert list(PlainRunner().map(str, [])) == []


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_threads_as_workers_and_no_more(workers: int) -> None:
    together = threading.Barrier(workers)
    lock, now, most = threading.Lock(), 0, 0

    def part(item: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(60)
        with lock:
            now -= 1

    list(PlainRunner(workers=workers).map(part, range(4 * workers)))
    assert most == workers


def test_by_default_one_thread_a_core() -> None:
    assert PlainRunner()._workers == core_count() >= 1


@pytest.mark.parametrize("count", [1, 3])
def test_parts_find_the_progress_and_what_the_caller_has_set(count: int) -> None:
    def part(item: int) -> tuple[Progress | None, str]:
        return current_progress(), CALLER.get()

    progress, token = Progress(), CALLER.set("caller")
    try:
        found = list(PlainRunner(progress, workers=2).map(part, range(count)))
    finally:
        CALLER.reset(token)
    assert found == [(progress, "caller")] * count
    assert current_progress() is None


def test_what_a_part_sets_does_not_reach_the_others_or_the_caller() -> None:
    def part(item: int) -> str:
        before = CALLER.get()
        CALLER.set(str(item))
        return before

    assert list(PlainRunner(workers=1).map(part, range(3))) == ["nobody"] * 3
    assert CALLER.get() == "nobody"
