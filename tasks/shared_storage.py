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
    """Raise a StorageError if a folder with inputs is not there, or empty, as where a disk is not mounted."""
    for storage in inputs:
        if isinstance(storage, LocalStorage) and not _has_content(storage):
            raise StorageError(f"{storage.uri}: not there, or empty, on {socket.gethostname()}; {_SHARE}")


def check_outputs_visible(output: Storage, names: Iterable[str]) -> None:
    """Raise a StorageError if what tasks published, by the names of its records, cannot be seen on this machine."""
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
