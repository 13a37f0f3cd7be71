"""s3fs with one mechanism of retries: ours, around each request. Those of s3fs and of botocore are switched off."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec.asyn
import s3fs
from botocore.exceptions import IncompleteReadError
from typing_extensions import override

from zssmnet.storage.retry import RetryPolicy
from zssmnet.storage.s3_errors import FAULTS, NOT_THAT_VERSION, code_of, is_transient

T = TypeVar("T")
PART_BYTES = 50 * 2**20
"""Files are fetched in parts of this size; s3fs sends those of twice the size and more in such parts."""
PARTS_AT_ONCE = 4


class RetryingS3(s3fs.S3FileSystem):  # type: ignore[misc]
    """Sends each request again while it fails for the moment. Threads share one instance, as they share its loop."""

    retries = 1

    def __init__(self, retry: RetryPolicy, **settings: Any) -> None:
        config = {
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": retry.connect_s,
            "read_timeout": retry.read_s,
        }
        super().__init__(use_listings_cache=False, config_kwargs=config, **settings)
        self._retry = retry

    def wait(self, action: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """The result of one of the coroutines below."""
        result: T = fsspec.asyn.sync(self.loop, action, *arguments)
        return result

    async def listing(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        """S3's description of all objects whose keys begin with ``prefix``."""
        pages = self._list_pages("list_objects_v2", Bucket=bucket, Prefix=prefix)
        return [found async for page in pages for found in page.get("Contents", [])]

    async def head(self, bucket: str, key: str) -> dict[str, Any] | None:
        """S3's description of an object, or None if there is none."""
        try:
            details: dict[str, Any] = await self._call_s3("head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        except OSError as error:
            if code_of(error) in ("400", "403"):  # this answer has no text with the reason: another one has
                await self.look_at_bucket(bucket, key)
            raise
        return details

    async def look_at_bucket(self, bucket: str, prefix: str) -> None:
        """Fail if the bucket is not there or may not be read."""
        await self._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)

    async def fetch(self, bucket: str, key: str, version: str, size: int, to: Path, part_bytes: int) -> dict[str, Any]:
        """Copy an object into a local file, in parts side by side; S3's description of it.

        Raises:
            OSError: it is not there, or has another version meanwhile.
        """
        room = asyncio.Semaphore(PARTS_AT_ONCE)
        details: dict[str, Any] = {}
        with to.open("wb") as file:

            async def fetch_part(start: int) -> None:
                end = min(start + part_bytes, size)
                asked = {} if end - start == size else {"Range": f"bytes={start}-{end - 1}"}
                async with room:
                    read = functools.partial(self._read_once, bucket, key, version, end - start, asked)
                    data, answer = await self._retry.wait_for(read, is_transient, f"s3://{bucket}/{key}: get_object")
                    details.update(answer)
                    file.seek(start)
                    file.write(data)

            try:
                async with asyncio.TaskGroup() as group:
                    for start in range(0, size, part_bytes):
                        group.create_task(fetch_part(start))
            except ExceptionGroup as failed:  # the others were cancelled
                raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return details

    async def _read_once(
        self, bucket: str, key: str, version: str, size: int, asked: dict[str, str]
    ) -> tuple[bytes, dict[str, Any]]:
        async with asyncio.timeout(self._retry.longest_request_s(size)):
            condition = {"IfMatch": f'"{version}"'}
            answer = await super()._call_s3("get_object", Bucket=bucket, Key=key, **condition, **asked)
            async with answer["Body"] as body:
                data: bytes = await body.read()
        if len(data) != size:
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=size)
        return data, {name: value for name, value in answer.items() if name != "Body"}

    async def exchange(self, bucket: str, key: str, data: bytes | None, version: str | None) -> str | None:
        """Write or remove an object by a conditional request; see `Storage.exchange`."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": f'"{version}"'}
        try:
            if data is None:
                await self._call_s3("delete_object", Bucket=bucket, Key=key, **condition)
                return ""
            answer = await self._call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except OSError as error:
            if code_of(error) in NOT_THAT_VERSION:
                return None
            raise
        return str(answer["ETag"]).strip('"')

    async def give_up_uploads(self, bucket: str, prefix: str, before: datetime) -> None:
        """Give up uploads in parts that began before a moment, and that nobody finished."""
        found = await self._call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
        for upload in found.get("Uploads", []):
            if upload["Initiated"] < before:
                await self._abort_mpu(bucket, upload["Key"], upload["UploadId"])

    @override
    async def _call_s3(self, method: str, *arguments: Any, **settings: Any) -> Any:
        what = f"s3://{settings.get('Bucket', '')}/{settings.get('Key', settings.get('Prefix', ''))}: {method}"
        request = functools.partial(super()._call_s3, method, *arguments, **settings)
        limit_s = self._retry.longest_request_s(len(settings.get("Body", b"")))
        await self.set_session()  # reads files and may ask for credentials: no part of the request

        async def send() -> Any:
            async with asyncio.timeout(limit_s):
                return await request()

        return await self._retry.wait_for(send, is_transient, what)

    @override
    async def _abort_mpu(self, bucket: str, key: str, mpu: str) -> None:
        """Once only, and without an error: what led here is what the user should read."""
        with suppress(*FAULTS):
            await super()._call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=mpu)
