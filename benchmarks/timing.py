"""What all benchmarks share."""

import time
from collections.abc import Callable


def best_seconds(
    work: Callable[[], object],
    repeat: int,
    settle: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The shortest of so many runs, after one to warm up.

    Args:
        work: what is timed.
        repeat: number of runs.
        settle: waits until the work is really done, as for a GPU.
        clock: what seconds are read from; ``time.process_time`` counts those of the processor alone.
    """
    seconds = []
    for _ in range(repeat + 1):
        start = clock()
        work()
        settle()
        seconds.append(clock() - start)
    return min(seconds[1:])
