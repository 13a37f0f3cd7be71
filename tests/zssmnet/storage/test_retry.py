"""The retry policy: what is retried, how often, and with which waits."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from zssmnet.storage.retry import GaveUpError, RetryPolicy, one_line


class Failing:
    """Fails so many times; counts."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.attempts = 0

    def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self.times:
            raise ValueError(f"fault {self.attempts}")
        return "done"


def by_call(policy: RetryPolicy, action: Callable[[], str]) -> str:
    return policy.call(action, lambda error: isinstance(error, ValueError), "act")


def by_wait_for(policy: RetryPolicy, action: Callable[[], str]) -> str:
    async def act() -> str:
        return action()

    return asyncio.run(policy.wait_for(act, lambda error: isinstance(error, ValueError), "act"))


@pytest.fixture(params=[by_call, by_wait_for])
def perform(request: pytest.FixtureRequest) -> Callable[[RetryPolicy, Callable[[], str]], str]:
    return request.param


def test_waits_are_drawn_from_half_of_a_limit_that_doubles_to_all_of_it(
    perform: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []
    waited: list[float] = []

    def draw(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    async def sleep(pause_s: float) -> None:
        waited.append(pause_s)

    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("asyncio.sleep", sleep)
    assert perform(RetryPolicy(attempts=8, draw=draw), Failing(7)) == "done"
    assert asked == [(limit / 2, limit) for limit in (0.5, 1, 2, 4, 8, 16, 20)]
    assert waited == [high / 2 for _, high in asked]


def test_so_many_attempts_in_all(perform: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    policy = RetryPolicy(attempts=3, first_s=0)
    assert perform(policy, Failing(2)) == "done"
    assert caplog.messages == [
        "act: fault 1; retrying in 0.0 s (attempt 2 of 3)",
        "act: fault 2; retrying in 0.0 s (attempt 3 of 3)",
    ]
    failing = Failing(3)
    with pytest.raises(GaveUpError) as caught:
        perform(policy, failing)
    assert (failing.attempts, caught.value.attempts, str(caught.value.__cause__)) == (3, 3, "fault 3")


def test_what_cannot_get_better_is_not_tried_again(perform: Callable[..., str]) -> None:
    tried: list[int] = []

    def act() -> str:
        tried.append(1)
        raise KeyError

    with pytest.raises(KeyError):
        perform(RetryPolicy(), act)
    assert tried == [1]


def test_a_request_may_take_twice_the_wait_for_bytes_and_the_time_of_the_slowest_rate() -> None:
    policy = RetryPolicy(read_s=30, slowest_bytes_s=1e5)
    assert policy.longest_request_s(0) == 60
    assert policy.longest_request_s(1_000_000) == 70


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (OSError(28, "No space left on device", "/file"), "No space left on device"),
        (ValueError(), "ValueError"),
        (ValueError("at https://user:password@host"), "at https://***@host"),
    ],
)
def test_errors_in_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line
