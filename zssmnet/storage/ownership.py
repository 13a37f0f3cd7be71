"""A file that was not made here is replaced by no command: it is refused, or ``--force`` is given."""

from collections.abc import Callable
from pathlib import Path

from zssmnet.errors import InputError
from zssmnet.storage.interface import Storage


def check_ours(storage: Storage, key: str, is_ours: Callable[[Path], bool], force: bool = False) -> None:
    """Raise an InputError if a file lies where one is to be written that was not made here, or was changed since.

    Args:
        is_ours: whether a local copy of the file has the marker, or the content, of one that was made here.
        force: whether it may be replaced nevertheless.
    """
    if not force and storage.stat(key) is not None and not is_ours(storage.local(key)):
        raise InputError(
            f"{storage.where(key)}: was not made by this command, or was changed since; move it away, name another "
            "place, or give --force, where there is that flag, to replace it"
        )
