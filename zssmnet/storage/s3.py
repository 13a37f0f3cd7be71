"""Storage in an S3 bucket. Endpoint and credentials come from where S3 tools look for them: the environment
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``), or ``~/.aws``.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from typing_extensions import override

from zssmnet.errors import ConfigError, StorageError
from zssmnet.storage.cache import FOLDER, Cache
from zssmnet.storage.interface import Entry, Storage
from zssmnet.storage.keys import checked_key
from zssmnet.storage.process_id import new_name
from zssmnet.storage.retry import RetryPolicy
from zssmnet.storage.s3_client import PART_BYTES, S3Client, connect
from zssmnet.storage.s3_errors import (
    FAULTS,
    MISSING,
    NOT_THAT_VERSION,
    WrongContentError,
    is_of_this_machine,
    needs_a_new_start,
    reason_of,
)

log = logging.getLogger(__name__)

UNFINISHED_FOR = timedelta(days=1)
"""Uploads in parts that began so long ago are aborted when the storage is swept."""

_MOST_ATTEMPTS = RetryPolicy.attempts
_MOST_STARTS = 3
"""How often a whole file is sent or fetched, where its requests succeed but do not fit together."""
_PARTS = re.compile(r"(arn:[^/]*(?::accesspoint|:outpost/[^/]+/accesspoint)/[^/]+|[^/]+)/?(.*)", re.DOTALL)
"""A bucket, or the ARN of an access point, and a prefix."""
_MD5 = re.compile("[0-9a-f]{32}")
_NO_VERSION = hashlib.md5(b"no object has this content", usedforsecurity=False).hexdigest()
_testing, _tested = threading.Lock(), set[tuple[str, S3Client]]()
"""The buckets and clients with which this process has found that conditions are kept."""
_KEY_OF_ITS_OWN = ("aws:kms", "aws:kms:dsse")
"""Kinds of encryption under which an ETag is no MD5."""


class S3Storage(Storage):
    """A prefix in a bucket: ``s3://bucket/prefix``.

    An upload appears whole when it is complete: S3 shows no half-written objects. Files to read are copied into a
    bounded local cache (`zssmnet.storage.cache`), whole and in the version that was listed. A request is sent up to 12
    times while its errors are transient; a file whose requests succeed but do not fit together, up to 3 times.

    Args:
        cache: where the local copies lie; none: that of the environment.
        retry: how often requests are sent, and how long is waited.
        part_bytes: files are sent and fetched in parts of this size; none: 50 MiB, more for very large ones.
    """

    def __init__(
        self, uri: str, cache: Cache | None = None, retry: RetryPolicy | None = None, part_bytes: int | None = None
    ) -> None:
        self.uri = "s3://" + uri.removeprefix("s3://").strip("/")
        found = _PARTS.fullmatch(self.uri.removeprefix("s3://"))
        self.bucket, self._prefix = found.groups() if found else ("", "")
        self._top = f"{self._prefix}/" if self._prefix else ""
        self._cache = cache or Cache.from_environment()
        self._retry = retry or RetryPolicy(_MOST_ATTEMPTS)
        self._new_starts = replace(self._retry, attempts=min(self._retry.attempts, _MOST_STARTS))
        self._part_bytes = part_bytes
        self._client = connect(self._retry)

    def _key(self, key: str) -> str:
        """The key in the bucket."""
        return f"{self._top}{checked_key(key)}"

    def _send(self, operation: str, key: str, expected: Sequence[str] = (), **request: Any) -> dict[str, Any] | None:
        return self._client.send(operation, expected, Bucket=self.bucket, Key=self._key(key), **request)

    @override
    def list(self, prefix: str = "") -> list[Entry]:
        top = f"{self._key(prefix)}/" if prefix else self._top
        request = {"Bucket": self.bucket, "Prefix": top}
        ours = len(self._top)
        entries: list[Entry] = []
        with self._faults(f"s3://{self.bucket}/{top}".rstrip("/"), "listed"):
            while page := self._client.send("list_objects_v2", **request):
                files = (one for one in page.get("Contents", []) if not one["Key"].endswith("/"))  # no empty folders
                entries += (Entry(one["Key"][ours:], one["Size"], _version(one), one["LastModified"]) for one in files)
                if not (token := page.get("NextContinuationToken")):
                    break
                request["ContinuationToken"] = token
        return sorted(entries, key=lambda entry: entry.key)

    @override
    def stat(self, key: str) -> Entry | None:
        with self._faults(self.where(key), "read"):
            try:
                found = self._send("head_object", key, MISSING)
            except ClientError:
                self._look_at_bucket(key)  # an answer to HEAD has no text with the reason: another one has
                raise
        return Entry(key, found["ContentLength"], _version(found), found["LastModified"]) if found else None

    def _look_at_bucket(self, key: str) -> None:
        """Fail if the bucket is not there or may not be read."""
        self._client.send("list_objects_v2", Bucket=self.bucket, Prefix=self._key(key), MaxKeys=1)

    @override
    def local(self, key: str) -> Path:
        return self.local_version(key, 0, "")

    @override
    def local_version(self, key: str, size: int, version: str) -> Path:
        known = iter([(size, version)] if version else [])  # unless it has changed since

        def copy() -> Path:
            size, version = next(known, None) or self._present(key)
            return self._cache.get(self.where(key), version, lambda path: self._fetch(key, version, size, path))

        with self._faults(self.where(key), "read"):
            return self._new_starts.call(copy, needs_a_new_start, self.where(key))

    def _present(self, key: str) -> tuple[int, str]:
        """Size and version of a file."""
        if entry := self.stat(key):
            return entry.size, entry.version
        self._look_at_bucket(key)
        raise StorageError(f"{self.where(key)}: no such file")

    def _fetch(self, key: str, version: str, size: int, path: Path) -> None:
        part_bytes = self._part_bytes or PART_BYTES
        details = self._client.run(self._client.fetch(self.bucket, self._key(key), version, size, path, part_bytes))
        if not (size and _is_md5(version, details, self.bucket)):
            return
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found != version:
            raise WrongContentError(f"damaged, on its way or in the storage: its MD5 is {found}, not {version}")

    @override
    @contextmanager
    def publishing(self, key: str) -> Iterator[Path]:
        target, address = self._key(key), self.where(key)
        with self._faults(address, "written"), self._cache.workplace() as folder:
            partial = folder / key.rpartition("/")[2]
            yield partial
            self._new_starts.call(
                lambda: self._client.run(self._client.put(self.bucket, target, partial, self._part_bytes)),
                needs_a_new_start,
                address,
            )

    @override
    def exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        with _testing:
            if (self.bucket, self._client) not in _tested:
                self._test(f"{key.rpartition('/')[0]}/test-{new_name()}".lstrip("/"))
                _tested.add((self.bucket, self._client))
        return self._exchange(key, data, version)

    def _test(self, key: str) -> None:
        """Try what locks rely on, with a file that is removed; StorageError if the storage does not do it."""
        self._exchange(key, b"1", None)  # refused where it was sent again, since its answer was lost
        try:
            lacks = {
                "conditional creation": self._exchange(key, b"2", None) is not None,
                "conditional replacement": self._exchange(key, b"3", _NO_VERSION) is not None,
                "listing of what was just written": key not in {one.key for one in self.list(key.rpartition("/")[0])},
                "conditional removal": self._exchange(key, None, _NO_VERSION) is not None,
            }
            if missing := ", ".join(name for name, is_missing in lacks.items() if is_missing):
                raise StorageError(
                    f"{self.uri}: this storage lacks {missing}, without which two runs could hold one lock: use a "
                    "newer version of it, or another one"
                )
        finally:
            self.remove(key)

    def _exchange(self, key: str, data: bytes | None, version: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'}
        with self._faults(self.where(key), "written"):
            if data is None:
                return "" if self._send("delete_object", key, NOT_THAT_VERSION, **condition) else None
            written = self._send("put_object", key, NOT_THAT_VERSION, Body=data, **condition)
            return _version(written) if written else None

    @override
    def remove(self, key: str) -> None:
        with self._faults(self.where(key), "removed"):
            self._send("delete_object", key, MISSING)

    @override
    def child(self, folder: str) -> "S3Storage":
        return S3Storage(self.where(checked_key(folder)), self._cache, self._retry, self._part_bytes)

    @override
    def sweep(self) -> None:
        """Abort old uploads in parts: S3 keeps, and charges for, the parts of one that was killed."""
        self._cache.sweep()
        before = datetime.now(UTC) - UNFINISHED_FOR
        try:
            found = self._client.send("list_multipart_uploads", Bucket=self.bucket, Prefix=self._top) or {}
            for upload in found.get("Uploads", []):
                if upload["Initiated"] < before:
                    which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._client.send("abort_multipart_upload", Bucket=self.bucket, **which)
        except FAULTS as error:  # many credentials may not list uploads, and nothing depends on it
            log.info("%s: could not abort unfinished uploads: %s", self.uri, reason_of(error))

    def _faults(self, address: str, done: str) -> AbstractContextManager[None]:
        place = f"in {self._cache.folder}: make room there, or name a folder in {FOLDER}"
        return _storage_errors(address, done, place)


def make_bucket(name: str) -> bool:
    """Make a bucket if it is not there; whether it was made. StorageError if the storage does not let us."""
    client = connect(RetryPolicy(_MOST_ATTEMPTS))
    with _storage_errors(f"s3://{name}", "made", "on this machine"):
        if client.send("head_bucket", MISSING, Bucket=name):
            return False
        client.send("create_bucket", Bucket=name)
    return True


def _version(details: dict[str, Any]) -> str:
    return str(details["ETag"]).strip('"')


def _is_md5(version: str, details: dict[str, Any], bucket: str) -> bool:
    """Whether an ETag is the MD5 of the content: sent in one part, not encrypted with a key of its own."""
    is_encrypted = details.get("ServerSideEncryption") in _KEY_OF_ITS_OWN or "SSECustomerAlgorithm" in details
    return bool(_MD5.fullmatch(version)) and not is_encrypted and not bucket.endswith("--x-s3")


@contextmanager
def _storage_errors(address: str, done: str, place: str) -> Iterator[None]:
    """What S3, the network and the disk of this machine report becomes a StorageError of one line."""
    try:
        yield
    except (*FAULTS, WrongContentError) as error:
        reason = f"{reason_of(error)}, {place}" if is_of_this_machine(error) else reason_of(error)
        raise StorageError(f"{address}: cannot be {done}: {reason}") from error
    except ConfigError as error:
        raise ConfigError(f"{address}: {error}") from error
