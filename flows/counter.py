"""A line in the terminal that counts what is done; it needs nothing but Python."""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counter(unit: str) -> Iterator[Callable[[], None]]:
    """Count, on standard error, the calls of what is yielded; silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    numbers = itertools.count(1)

    def advance() -> None:
        print(f"\r{next(numbers)} {unit}", end="", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
