"""A file that was not made here is replaced by no command: it is refused, or ``--force`` is given."""

from collections.abc import Callable
from pathlib import Path

from zssmnet.errors import InputError
from zssmnet.storage.interface import Storage


def check_no_folder(storage: Storage, *keys: str) -> None:
    """Raise an InputError if a local folder has the name of a file that is to be written: before any work."""
    for where in map(storage.where, keys):
        if Path(where).is_dir():
            raise InputError(f"{where}: is a folder, and a file of this name is to be written; move it away")


def check_ours(storage: Storage, key: str, is_ours: Callable[[Path], bool], force: bool = False) -> None:
    """Raise an InputError if a file lies where one is to be written that was not made here, or was changed since.

    Args:
        is_ours: whether a local copy of the file has the marker, or the content, of one that was made here.
        force: whether it may be replaced nevertheless.
    """
    check_no_folder(storage, key)
    if not force and storage.stat(key) is not None and not is_ours(storage.local(key)):
        raise InputError(
            f"{storage.where(key)}: was not made by this command, or was changed since; move it away, name another "
            "place, or give --force, where there is that flag, to replace it"
        )
