"""Exit handling of all commands: an exit status and at most one line, whatever happens.

The line is the message of an error of this package, or names an unexpected error and the file with its traceback.
"""

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TextIO

from zssmnet.errors import ConfigError, ZssmnetError, without_credentials

INTERRUPTED, TERMINATED = 130, 143
EXTRAS = {
    "service": ("prefect", "httpx", "yaml", "supervisor"),
    "dask": ("prefect_dask", "dask", "distributed"),
    "s3": ("s3fs", "fsspec", "botocore"),
    "dicom": ("pydicom",),
}
"""The extras of this package, and the modules that they bring."""


class Terminated(BaseException):
    """SIGTERM, as by a shutdown or a container's end, or SIGHUP, as by a terminal or connection that is closed."""


def run_to_its_end(work: Callable[[], object]) -> int:
    """Run a command; its exit status, which is what it returns if that is a number."""
    _open_streams()
    status, line = 0, ""
    try:
        with _signals_raised():
            returned = work()
            status = returned if isinstance(returned, int) else 0
    except KeyboardInterrupt:
        status, line = INTERRUPTED, "interrupted; the same command continues where it stopped"
    except Terminated:
        status, line = TERMINATED, "terminated; the same command continues where it stopped"
    except ZssmnetError as error:
        status, line = 2 if isinstance(error, ConfigError) else 1, f"error: {error}"
    except Exception as error:
        status, line = 1, f"error: {_unforeseen(error)}"
    if line:
        from zssmnet.storage.keys import printable

        _print(sys.stderr, f"zssmnet: {printable(line)}\n")
    _print(sys.stdout)
    return status


def say(*lines: str) -> None:
    """Print lines of a result. Where they cannot be printed, they are lost, but the work is done all the same."""
    _print(sys.stdout, *(f"{line}\n" for line in lines))


def _print(stream: TextIO, *lines: str) -> None:
    """Print lines, and what the stream still has; one that nobody reads any more falls silent."""
    try:
        print(*lines, sep="", end="", file=stream, flush=True)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _unforeseen(error: Exception) -> str:
    """What to say of an error that is none of ours; its traceback goes to a file that only its owner can read."""
    if isinstance(error, ModuleNotFoundError):
        for extra, modules in EXTRAS.items():
            if (error.name or "").partition(".")[0] in modules:
                return f"this command needs {error.name}: pip install 'zssmnet[{extra}]'"
    if isinstance(error, FileNotFoundError) and not error.filename:  # by os.getcwd
        return "the current folder is not there any more; change to one that is there (cd) and run again"
    import tempfile
    import traceback

    reason = without_credentials(" ".join(f"{type(error).__name__}: {error}".split()))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="zssmnet-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(without_credentials("".join(traceback.format_exception(error))))
    except OSError as full:
        return f"unexpected {reason} (its traceback could not be written: {full.strerror})"
    return f"unexpected {reason}; its traceback is in {file.name}, please report it"


def _open_streams() -> None:
    """Open closed standard streams on the null device, and let the others escape characters that they cannot encode."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets this number, the lowest that is free
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise SIGTERM and SIGHUP as an exception, as Python does with SIGINT; a second SIGINT ends the process at once.

    Nothing is lost: published files are whole, and the same command continues.
    """
    if threading.current_thread() is not threading.main_thread():  # others can take no signals
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        for one in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)  # once is enough, and the end takes a moment
        raise Terminated

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # else it is ignored, as by nohup
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in a background job
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            if number != signal.SIGINT or sys.exc_info()[0] is not KeyboardInterrupt:
                signal.signal(number, handler)
