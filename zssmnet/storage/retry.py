"""Trying again what failed for the moment: the one place that decides how often, and how long is waited."""

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from zssmnet.errors import without_credentials

T = TypeVar("T")
IsTransient = Callable[[Exception], bool]
log = logging.getLogger(__name__)


class GaveUpError(Exception):
    """Something failed at each attempt; its cause is the last fault."""

    def __init__(self, attempts: int) -> None:
        super().__init__(f"failed {attempts} times")
        self.attempts = attempts


@dataclass(frozen=True)
class RetryPolicy:
    """How often something is tried, and how long is waited: for an answer, and between two attempts.

    Between attempts the wait is drawn from 0 to a limit that doubles (exponential backoff with full jitter), so that
    many who were refused in the same moment do not come back in the same moment. With these values a storage may be
    away for 26 s on average, 52 s at most.

    Attributes:
        attempts: how often at most, the first time included.
        first_s: limit of the first wait.
        longest_s: limit of all waits.
        connect_s: how long to wait for a connection.
        read_s: how long to wait for the next bytes of an answer.
        slowest_bytes_s: how many bytes a second are the least: what takes longer is ended.
        draw: draws a number between two limits.
    """

    attempts: int = 8
    first_s: float = 0.5
    longest_s: float = 20.0
    connect_s: float = 10.0
    read_s: float = 30.0
    slowest_bytes_s: float = 1e5
    draw: Callable[[float, float], float] = random.uniform

    def limit_s(self, attempt: int) -> float:
        """The longest wait after an attempt, counted from 1."""
        return min(self.longest_s, self.first_s * 2.0 ** (attempt - 1))

    def longest_request_s(self, size: int) -> float:
        """How long one request may take in all, with so many bytes to send or to fetch.

        A connection that stays open while next to nothing moves would be waited for without end otherwise: neither
        sending a body nor waiting for the permission to ("100 Continue") has a limit of its own in aiohttp.
        """
        return 2 * self.read_s + size / self.slowest_bytes_s

    def call(self, action: Callable[[], T], is_transient: IsTransient, what: str) -> T:
        """Do something, again while it fails for the moment.

        Args:
            is_transient: whether an error may be gone at the next attempt; any other goes through at once.

        Raises:
            GaveUpError: it failed at each attempt.
        """
        for attempt in itertools.count(1):
            try:
                return action()
            except Exception as error:
                pause_s = self._pause_s(error, is_transient, attempt, what)
            time.sleep(pause_s)
        raise AssertionError("attempts do not end without a result")

    async def wait_for(self, action: Callable[[], Awaitable[T]], is_transient: IsTransient, what: str) -> T:
        """The same for a coroutine."""
        for attempt in itertools.count(1):
            try:
                return await action()
            except Exception as error:
                pause_s = self._pause_s(error, is_transient, attempt, what)
            await asyncio.sleep(pause_s)
        raise AssertionError("attempts do not end without a result")

    def _pause_s(self, error: Exception, is_transient: IsTransient, attempt: int, what: str) -> float:
        if not is_transient(error):
            raise error
        if attempt >= self.attempts:
            raise GaveUpError(attempt) from error
        pause_s = self.draw(0.0, self.limit_s(attempt))
        log.warning(
            "%s: %s; again in %.1f s (attempt %d of %d)", what, one_line(error), pause_s, attempt + 1, self.attempts
        )
        return pause_s


def one_line(error: BaseException) -> str:
    """The message of an error, without line breaks and credentials."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    return without_credentials(text)
