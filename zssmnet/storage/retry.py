"""The retry policy: how often a transient error is retried, and with which backoff."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from zssmnet.errors import without_credentials

T = TypeVar("T")
IsTransient = Callable[[Exception], bool]
log = logging.getLogger(__name__)


class GaveUpError(Exception):
    """All attempts failed; its cause is the last error."""

    def __init__(self, attempts: int) -> None:
        super().__init__(f"failed {attempts} times")
        self.attempts = attempts


@dataclass(frozen=True)
class RetryPolicy:
    """Attempts, time limits and backoff.

    Between attempts the wait is drawn from half of a limit that doubles to all of it (exponential backoff with jitter),
    so that many who were refused at once do not come back at once. With these values a storage may be away for a
    minute, 99 s on average.

    Attributes:
        attempts: how often at most, the first time included.
        first_s: limit of the first wait.
        longest_s: limit of all waits.
        connect_s: timeout of a connection.
        read_s: timeout of the next bytes of an answer.
        slowest_bytes_s: lowest rate, in bytes a second; slower requests are ended.
        draw: draws a number between two limits.
    """

    attempts: int = 12
    first_s: float = 0.5
    longest_s: float = 20.0
    connect_s: float = 10.0
    read_s: float = 30.0
    slowest_bytes_s: float = 1e5
    draw: Callable[[float, float], float] = random.uniform

    def longest_request_s(self, size: int) -> float:
        """Timeout of one whole request that sends or fetches ``size`` bytes.

        Without it a connection that stays open while next to nothing moves is waited for forever: neither sending a
        body nor waiting for the permission to ("100 Continue") has a timeout of its own in aiohttp.
        """
        return 2 * self.read_s + size / self.slowest_bytes_s

    def call(self, action: Callable[[], T], is_transient: IsTransient, what: str) -> T:
        """The result of ``action``, which is repeated while its errors are transient.

        Args:
            is_transient: whether an error may be gone at the next attempt; any other is raised at once.

        Raises:
            GaveUpError: all attempts failed.
        """
        attempt = 0
        while True:
            try:
                return action()
            except Exception as error:
                pause_s = self._pause_s(error, is_transient, attempt := attempt + 1, what)
            time.sleep(pause_s)

    async def wait_for(self, action: Callable[[], Awaitable[T]], is_transient: IsTransient, what: str) -> T:
        """See `call`, for a coroutine."""
        attempt = 0
        while True:
            try:
                return await action()
            except Exception as error:
                pause_s = self._pause_s(error, is_transient, attempt := attempt + 1, what)
            await asyncio.sleep(pause_s)

    def _pause_s(self, error: Exception, is_transient: IsTransient, attempt: int, what: str) -> float:
        if not is_transient(error):
            raise error
        if attempt >= self.attempts:
            raise GaveUpError(attempt) from error
        limit_s = min(self.longest_s, self.first_s * 2.0 ** (attempt - 1))
        pause_s = self.draw(limit_s / 2, limit_s)
        log.warning(
            "%s: %s; retrying in %.1f s (attempt %d of %d)", what, one_line(error), pause_s, attempt + 1, self.attempts
        )
        return pause_s


def one_line(error: BaseException) -> str:
    """The message of an error, without line breaks and credentials, and which host could not be reached and why."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    reason: Any = getattr(error, "kwargs", {}).get("error")  # botocore's: its text names the endpoint, also for a proxy
    if hasattr(reason, "host") and hasattr(reason, "strerror"):
        text = f"{text} ({reason.host}:{reason.port}: {reason.strerror})"
    return without_credentials(text)
