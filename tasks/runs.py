"""What all flow and task runs share: the library's log lines in the run's log, and errors that end in one line."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.states import Failed

from zssmnet.errors import ZssmnetError

P = ParamSpec("P")
R = TypeVar("R")


def fails_clearly(function: Callable[P, R]) -> Callable[P, R]:
    """A flow's or task's function whose foreseen errors end the run in the state Failed with one line, no traceback.

    Calling the flow, or asking for the task's result, still raises the error.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        show_library_log()
        try:
            return function(*args, **kwargs)
        except ZssmnetError as error:
            return cast(R, Failed(message=str(error), data=error))

    return run


def show_library_log() -> None:
    """Send the library's log lines to the log of the run in which they are written."""
    library = logging.getLogger("zssmnet")
    if library.getEffectiveLevel() > logging.INFO:
        library.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
        handler = APILogHandler()
        handler.addFilter(_inside_a_run)
        library.addHandler(handler)


def _inside_a_run(record: logging.LogRecord) -> bool:
    return bool(TaskRunContext.get() or FlowRunContext.get())
