"""The folder for temporary files, which may be full, gone or read-only."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from zssmnet.errors import StorageError


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
