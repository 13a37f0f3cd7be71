"""The runner of flows: parts of a stage become Prefect tasks, training may be handed over to another work pool."""

import math
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from tasks.announcement import announce
from tasks.folders import STARTED_BY_WORKER
from tasks.hand_off import HERE, HandOff, hand_over
from tasks.models_page import publish_models_page
from tasks.progress import RunProgress
from tasks.run_control import controlled, wait_for_server
from zssmnet.data.archive import shortened
from zssmnet.runner import core_count, progress_shown_on
from zssmnet.stages.prepare import CaseToPrepare
from zssmnet.stages.pretrain import Training
from zssmnet.storage import open_storage
from zssmnet.storage.environment import variable
from zssmnet.storage.lock import LockOptions, lock_options

DASK_ADDRESS = "ZSSMNET_DASK_ADDRESS"
"""The scheduler of a Dask cluster on which cases and subsets are prepared, where an archive outgrows a machine."""
TASKS_AT_ONCE = 1000
"""Tasks that wait at the same time: memory does not grow with the archive."""
MOST_TASKS = 2000
"""Of a stage, if the user does not choose otherwise: a server takes longer for a task than for a small case."""
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def task_runner() -> TaskRunner[Any]:
    """Threads, one a core, or the Dask cluster that the environment names; read when a flow is defined."""
    if address := variable(DASK_ADDRESS):
        from prefect_dask.task_runners import DaskTaskRunner

        return DaskTaskRunner(address=address)
    return ThreadPoolTaskRunner(max_workers=core_count())


class Parts:
    """What one task does: in an object, since Prefect searches lists for results of other tasks.

    Its own ``quote``, which is for that, arrives on a Dask worker as a tuple.

    Attributes:
        ended: the end of the flow, by an interrupt or an error, which does not end tasks in threads; on another machine
            there is none.
    """

    def __init__(self, items: Sequence[Any], ended: threading.Event | None = None) -> None:
        self.items = items
        self.ended = ended

    def __reduce__(self) -> tuple[type["Parts"], tuple[Sequence[Any]]]:
        return Parts, (self.items,)


def _named_after_parts(parameters: dict[str, Any]) -> str:
    return shortened(map(str, parameters["parts"].items), 1)


@task(task_run_name=_named_after_parts, cache_policy=NO_CACHE, persist_result=False)  # type: ignore[arg-type]  # a method
def run_parts(function: Callable[[ItemT], ResultT], parts: Parts) -> list[ResultT]:
    """Run parts of a stage one after the other; once the flow has ended, no further one.

    A task that is done again finds those parts done that it has published.
    """
    return [function(item) for item in parts.items if not (parts.ended and parts.ended.is_set())]


class FlowRunner:
    """Runs the parts of a stage as tasks of the present flow run; see `zssmnet.runner.Runner`.

    Args:
        hand_off: where training runs.
        cases_per_task: how many cases a task prepares; none: one, or more where that would make over 2,000 tasks.
    """

    def __init__(self, progress: RunProgress, hand_off: HandOff = HERE, cases_per_task: int | None = None) -> None:
        self.progress = progress
        self._hand_off = hand_off
        self._cases_per_task = cases_per_task

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Generator[ResultT]:
        """Results in order of completion. A single part runs in the flow's own thread, which signals reach."""
        named: Any = run_parts.with_options(name=function.__name__)
        if len(items) == 1:
            (item,) = items
            with progress_shown_on(self.progress), controlled():
                if isinstance(item, Training):
                    result: Any = self._train(named, function, item)
                else:
                    (result,) = named(function, Parts(items))
            yield result
            return
        chosen = self._cases_per_task if items and isinstance(items[0], CaseToPrepare) else 1
        each = chosen or math.ceil(len(items) / MOST_TASKS)
        tasks = [items[start : start + each] for start in range(0, len(items), each)]
        ended = threading.Event()
        try:
            for start in range(0, len(tasks), TASKS_AT_ONCE):
                with progress_shown_on(self.progress):
                    some = tasks[start : start + TASKS_AT_ONCE]
                    futures = [named.submit(function, Parts(one, ended)) for one in some]
                for future in as_completed(futures):
                    yield from future.result()
        finally:
            ended.set()

    def _train(self, named: Any, function: Callable[..., object], work: Training) -> object:
        if self._hand_off.deployment:
            done = hand_over(work, self._hand_off)
            if isinstance(done, State):  # the task's own: it was cancelled
                raise CancelledRun
            return done
        (done,) = named(function, Parts([work]))
        wait_for_server()
        weights = open_storage(work.output_path)
        announce(weights, "challenge" if work.challenge else "pretraining")
        publish_models_page(weights)
        return done


@contextmanager
def flow_runner(hand_off: HandOff = HERE, cases_per_task: int | None = None) -> Iterator[FlowRunner]:
    """The runner of the present flow run, under whose name folders are locked.

    A run of a deployment waits for another that has a lock: nobody watches it, and it may have been started because
    that other one seemed to have crashed. A command reports which run has the lock, and ends.
    """
    context = FlowRunContext.get()
    name = f"run {context.flow_run.name!r}" if context and context.flow_run else LockOptions.name
    timeout_s = math.inf if variable(STARTED_BY_WORKER) else LockOptions.timeout_s
    with lock_options(LockOptions(name, timeout_s)), RunProgress() as progress:
        yield FlowRunner(progress, hand_off, cases_per_task)
