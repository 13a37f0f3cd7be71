"""Whether the machines of a run see the same folders.

On a machine where a disk is not mounted every file seems to be missing, and what is published there is lost.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress

from zssmnet.errors import StorageError
from zssmnet.storage.interface import Storage
from zssmnet.storage.keys import printable
from zssmnet.storage.local import LocalStorage
from zssmnet.storage.records import record_names

_SHARE = "let all machines see this folder under the same path, or keep it on S3"
_MOST_NAMED = 5


def check_visible(*inputs: Storage) -> None:
    """Raise a StorageError if a folder with inputs is not there, or empty, as where a disk is not mounted."""
    for storage in inputs:
        if isinstance(storage, LocalStorage):
            with suppress(OSError):
                if next(storage.folder.iterdir(), None):
                    continue
            raise StorageError(f"{storage.uri}: not there, or empty, on {socket.gethostname()}; {_SHARE}")


def check_outputs_visible(output: Storage, names: Iterable[str]) -> None:
    """Raise a StorageError if what was published elsewhere, by the names of its records, is not visible here."""
    if absent := sorted(set(names) - set(record_names(output))):
        named = ", ".join(map(printable, absent[:_MOST_NAMED])) + ("" if len(absent) <= _MOST_NAMED else ", ...")
        raise StorageError(
            f"{output.uri}: was written by tasks elsewhere, but is not visible on {socket.gethostname()}: "
            f"{named}; {_SHARE}"
        )
