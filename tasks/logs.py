"""Logs of runs: the library's lines belong into them, tracebacks of foreseen errors do not."""

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from zssmnet.errors import ZssmnetError


def set_up_logs() -> None:
    """Send the library's log lines to the log of the run that writes them, and let foreseen errors end in one line."""
    library = logging.getLogger("zssmnet")
    if library.level == logging.NOTSET:
        library.setLevel(logging.INFO)
    if not any(isinstance(handler, APILogHandler) for handler in library.handlers):
        handler = APILogHandler()
        handler.addFilter(_inside_a_run)
        library.addHandler(handler)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_in_one_line)


def _inside_a_run(record: logging.LogRecord) -> bool:
    return bool(TaskRunContext.get() or FlowRunContext.get())


def _in_one_line(record: logging.LogRecord) -> bool:
    """Foreseen errors say all there is to say in their message: the traceback is dropped."""
    if record.exc_info and isinstance(record.exc_info[1], ZssmnetError):
        record.exc_info = None
    return True
