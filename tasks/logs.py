"""Logs of runs: the library's lines belong into them, tracebacks of foreseen errors do not.

A run writes its lines to its worker as well, which may end before it. That is no reason for the run to end.
"""

import logging
import os
import sys

from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import CancelledRun
from prefect.logging.handlers import APILogHandler
from rich.console import Console

from zssmnet.errors import ZssmnetError


def set_up_logs() -> None:
    """Send the library's log lines to the log of the run that writes them, and let foreseen errors end in one line."""
    library = logging.getLogger("zssmnet")
    if library.level == logging.NOTSET:
        library.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
        handler = APILogHandler()
        handler.addFilter(lambda record: bool(TaskRunContext.get() or FlowRunContext.get()))
        library.addHandler(handler)
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_traceback)
    Console.on_broken_pipe = _fall_silent  # type: ignore[method-assign, assignment]


def hide_tracebacks() -> None:
    """In a command, drop all tracebacks from the log: an unexpected error names the file that has them."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_any_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """The message of a foreseen error is complete: the traceback is dropped; a cancellation is no error at all."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ZssmnetError):
        record.exc_info = None
    return not isinstance(error, CancelledRun)


def _without_any_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


def _fall_silent(console: Console) -> None:
    """Discard output of a console that nobody reads any more; rich itself would end the process."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
