"""Storage in an S3 bucket. Endpoint and credentials come from where S3 tools look for them: the environment
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``), or ``~/.aws``.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import s3fs
from botocore.exceptions import BotoCoreError, ClientError
from typing_extensions import override

from zssmnet.errors import StorageError
from zssmnet.keys import checked_key
from zssmnet.storage.cache import Cache
from zssmnet.storage.interface import Entry, Storage

_MOST_ATTEMPTS = 6
_FAULTS = (OSError, BotoCoreError, ClientError, aiohttp.ClientError, TimeoutError)


class S3Storage(Storage):
    """A prefix in a bucket: ``s3://bucket/prefix``.

    An upload appears whole when it is complete: S3 shows no half-written objects. Files to read are copied into a
    bounded local cache (`zssmnet.storage.cache`).
    """

    def __init__(self, uri: str, cache: Cache | None = None) -> None:
        self.uri = "s3://" + uri.removeprefix("s3://").strip("/")
        self._root = self.uri.removeprefix("s3://")
        self._cache = cache or Cache.from_environment()
        retries = {"mode": "standard", "max_attempts": _MOST_ATTEMPTS}  # backoff with jitter
        self._files = s3fs.S3FileSystem(use_listings_cache=False, config_kwargs={"retries": retries})

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked_key(key)}"

    @override
    def list(self, prefix: str = "") -> list[Entry]:
        top = self._path(prefix) if prefix else self._root
        with _storage_errors(f"s3://{top}", "listed"):
            found = self._files.find(f"{top}/", detail=True)
        return sorted(
            (self._entry(path, details) for path, details in found.items() if path.startswith(f"{top}/")),
            key=lambda entry: entry.key,
        )

    @override
    def stat(self, key: str) -> Entry | None:
        path = self._path(key)
        with _storage_errors(self.where(key), "read"):
            try:
                details = self._files.info(path)
            except FileNotFoundError:
                return None
        return self._entry(path, details) if details["type"] == "file" else None

    @override
    def local(self, key: str) -> Path:
        entry = self.stat(key)
        if entry is None:
            raise StorageError(f"{self.where(key)}: no such file")
        with _storage_errors(self.where(key), "read"):
            return self._cache.get(self.where(key), entry.version, lambda path: self._fetch(key, entry, path))

    @override
    @contextmanager
    def publishing(self, key: str) -> Iterator[Path]:
        target = self._path(key)
        with _storage_errors(self.where(key), "written"):
            workplace = self._cache.workplace()
            try:
                partial = workplace / key.rpartition("/")[2]
                yield partial
                self._files.put_file(str(partial), target)
            finally:
                shutil.rmtree(workplace, ignore_errors=True)

    @override
    def remove(self, key: str) -> None:
        with _storage_errors(self.where(key), "removed"):
            try:
                self._files.rm_file(self._path(key))
            except FileNotFoundError:
                return

    @override
    def sweep(self) -> None:
        self._cache.sweep()

    @override
    def child(self, folder: str) -> "S3Storage":
        return S3Storage(self._path(folder), self._cache)

    def _entry(self, path: str, details: dict[str, Any]) -> Entry:
        return Entry(path.removeprefix(f"{self._root}/"), int(details["size"]), str(details["ETag"]).strip('"'))

    def _fetch(self, key: str, entry: Entry, path: Path) -> None:
        self._files.get_file(self._path(key), str(path))
        if (size := path.stat().st_size) != entry.size:
            raise OSError(f"changed while it was read: {size} bytes came, {entry.size} were listed")


def make_bucket(name: str) -> bool:
    """Make a bucket if it is not there; whether it was made.

    Raises:
        StorageError: the storage does not answer, or does not let us.
    """
    files = s3fs.S3FileSystem(use_listings_cache=False)
    with _storage_errors(f"s3://{name}", "made"):
        if files.exists(name):
            return False
        files.mkdir(name)
    return True


@contextmanager
def _storage_errors(address: str, done: str) -> Iterator[None]:
    """What S3 and the network report becomes a StorageError of one line."""
    try:
        yield
    except _FAULTS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StorageError(f"{address}: cannot be {done}: {' '.join(str(reason).split())}") from error
