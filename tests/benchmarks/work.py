"""What fresh processes are asked to do in tests."""

import time
from collections.abc import Iterator


def yields_then_fails(what: str) -> Iterator[dict[str, str]]:
    yield {"what": what}
    raise ValueError("no more")


def fails() -> None:
    raise ValueError("nothing")


def sleeps() -> None:
    time.sleep(60)


def takes(megabytes: int) -> int:
    content = b"x" * (megabytes * 2**20)
    time.sleep(0.2)
    return len(content)
