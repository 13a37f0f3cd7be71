"""What all benchmarks share."""

import time
from collections.abc import Callable


def best_seconds(work: Callable[[], object], repeat: int, settle: Callable[[], None] = lambda: None) -> float:
    """The shortest of so many runs, after one to warm up.

    Args:
        work: what is timed.
        repeat: number of runs.
        settle: waits until the work is really done, as for a GPU.
    """
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        work()
        settle()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
