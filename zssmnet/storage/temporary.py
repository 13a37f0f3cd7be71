"""Temporary folders that do not pile up: each is named by its process; the next one removes what killed ones left."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from zssmnet.errors import StorageError
from zssmnet.storage.process_id import sweep, this_process

_PREFIX = "zssmnet-"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder among the system's temporary files, removed on leaving; OSError if it cannot be made."""
    _sweep(tempfile.gettempdir())
    prefix = f"{_PREFIX}{this_process()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def temporary_errors() -> Iterator[None]:
    """The operating system's errors with temporary files become a StorageError of one line."""
    try:
        yield
    except OSError as error:
        place = tempfile.tempdir or "the folder for temporary files"  # not known before one was found
        reason = error.strerror or error
        raise StorageError(
            f"{place}: cannot be written: {reason}: make room there, or name a folder in TMPDIR"
        ) from error


@cache
def _sweep(place: str) -> None:
    """Once in each process, remove the folders of those that are no more."""
    sweep(Path(place), _PREFIX)
