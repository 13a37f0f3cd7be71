"""Tasks may run on several machines: all must see the same folders.

On a machine where a disk is not mounted every file seems to be missing, and what is published there is lost.
"""

import socket
from collections.abc import Iterable

from zssmnet.data.archive import shortened
from zssmnet.errors import StorageError
from zssmnet.storage import LocalStorage, Storage
from zssmnet.storage.records import record_names

_SHARE = "let all machines see this folder under the same path, or keep it on S3"


def check_visible(*inputs: Storage) -> None:
    """Check that folders with inputs are visible on this machine.

    Raises:
        StorageError: one is not, or nothing is in it, as in a place where a disk is not mounted.
    """
    for storage in inputs:
        if isinstance(storage, LocalStorage) and not _has_content(storage):
            raise StorageError(f"{storage.uri}: not there, or empty, on {socket.gethostname()}; {_SHARE}")


def check_outputs_visible(output: Storage, names: Iterable[str]) -> None:
    """Check that what tasks have published is visible on this machine, by the names of its records.

    Raises:
        StorageError: something is not.
    """
    if absent := sorted(set(names) - set(record_names(output))):
        raise StorageError(
            f"{output.uri}: was written by tasks elsewhere, but is not visible on {socket.gethostname()}: "
            f"{shortened(absent)}; {_SHARE}"
        )


def _has_content(storage: LocalStorage) -> bool:
    try:
        return next(storage.folder.iterdir(), None) is not None
    except OSError:
        return False
