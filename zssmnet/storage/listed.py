"""A storage as one listing shows it: what lies where, and in which version, without asking for each file."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from typing_extensions import override

from zssmnet.errors import StorageError
from zssmnet.storage.interface import Entry, Storage


class Listed(Storage):
    """A storage that is looked at once; what changes later is seen where a file is read, written or exchanged.

    Args:
        storage: what is listed.
        keys: files that are looked at instead, one by one.
    """

    def __init__(self, storage: Storage, keys: Iterable[str] | None = None) -> None:
        self.uri = storage.uri
        self._storage = storage
        entries = storage.list() if keys is None else map(storage.stat, keys)
        self._entries = {entry.key: entry for entry in entries if entry}

    @override
    def list(self, prefix: str = "") -> list[Entry]:
        below = f"{prefix}/" if prefix else ""
        return [entry for key, entry in self._entries.items() if key.startswith(below)]

    @override
    def stat(self, key: str) -> Entry | None:
        return self._entries.get(key)

    @override
    def local(self, key: str) -> Path:
        if entry := self._entries.get(key):
            return self._storage.local_version(key, entry.size, entry.version)
        raise StorageError(f"{self.where(key)}: no such file")

    @override
    def publishing(self, key: str) -> AbstractContextManager[Path]:
        return self._storage.publishing(key)

    @override
    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        return self._storage.exchange(key, data, version)

    @override
    def remove(self, key: str) -> None:
        self._storage.remove(key)

    @override
    def child(self, folder: str) -> Storage:
        return self._storage.child(folder)
