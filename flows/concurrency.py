"""How many tasks of a flow run at the same time."""

import os
from typing import Any

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner


def one_task_a_core() -> TaskRunner[PrefectFuture[Any]]:
    """Threads, one a core: SimpleITK releases Python's lock, and each filter takes one thread."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=cores)
    return runner
