"""S3's operations by s3fs's client, with one retry policy: ours, around each request. Others are switched off."""

import asyncio
import atexit
import functools
import mimetypes
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import s3fs
from botocore.exceptions import ClientError, IncompleteReadError

from zssmnet.errors import ConfigError
from zssmnet.storage.environment import Environment, variable
from zssmnet.storage.retry import RetryPolicy, one_line
from zssmnet.storage.s3_errors import FAULTS, code_of, is_transient

T = TypeVar("T")
PART_BYTES = 50 * 2**20
"""Files are fetched in parts of this size; those of twice the size and more are sent in such parts."""
MOST_PARTS = 10_000
"""S3 takes no more of one file."""
PARTS_AT_ONCE = 4


@functools.cache
def _client_of(process: int, environment: tuple[tuple[str, str], ...], retry: RetryPolicy) -> "S3Client":
    return S3Client(retry)


def connect(retry: RetryPolicy) -> "S3Client":
    """The client that this process has in this environment: a fork has no thread, and the endpoint may be another."""
    for name in Environment.model_fields:
        if name.startswith("AWS_") and name in os.environ:
            os.environ[name] = variable(name)  # botocore takes spaces as such, and an empty one for a value
            if not os.environ[name]:
                del os.environ[name]
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return _client_of(os.getpid(), environment, retry)


class S3Client:
    """Sends requests, each again while its errors are transient; threads share it, see `connect`.

    It lives in an event loop of its own, in a thread, until the process ends.
    """

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="S3", daemon=True).start()
        atexit.register(self._close)

    def run(self, action: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, which is cancelled if a signal ends the waiting."""
        future = asyncio.run_coroutine_threadsafe(action, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def send(self, operation: str, expected: Sequence[str] = (), **request: Any) -> dict[str, Any] | None:
        """Send one request; S3's answer.

        Args:
            operation: its name in botocore's client, which names the parameters of the request, too.
            expected: codes of errors for which None is returned.
        """
        try:
            return self.run(self._send(operation, **request))
        except ClientError as error:
            if code_of(error) in expected:
                return None
            raise

    async def _send(self, operation: str, size: int = 0, **request: Any) -> dict[str, Any]:
        """See `send`; ``size`` is the number of bytes that an answer's body must have."""
        client = await self._connected()  # reads files and may ask for credentials: no part of the request
        limit_s = self._retry.longest_request_s(size + len(request.get("Body") or b""))

        async def attempt() -> dict[str, Any]:
            async with asyncio.timeout(limit_s):
                answer: dict[str, Any] = await getattr(client, operation)(**request)
                if "Body" not in answer:
                    return answer
                async with answer["Body"] as body:
                    answer["Body"] = await body.read()
            if len(answer["Body"]) != size:
                raise IncompleteReadError(actual_bytes=len(answer["Body"]), expected_bytes=size)
            return answer

        what = f"s3://{request['Bucket']}/{request.get('Key', request.get('Prefix', ''))}: {operation}"
        return await self._retry.wait_for(attempt, is_transient, what)

    async def fetch(self, bucket: str, key: str, version: str, size: int, to: Path, part_bytes: int) -> dict[str, Any]:
        """Copy an object into a local file, in parts side by side; S3's description of it.

        Raises:
            ClientError: it is not there, or has another version meanwhile.
        """
        request: dict[str, Any] = {"Bucket": bucket, "Key": key, "IfMatch": f'"{version}"'}
        details: dict[str, Any] = {}
        with to.open("wb") as file:

            async def fetch_part(start: int, length: int) -> None:
                part: dict[str, Any] = {} if length == size else {"Range": f"bytes={start}-{start + length - 1}"}
                answer = await self._send("get_object", length, **request, **part)
                file.seek(start)
                file.write(answer.pop("Body"))
                details.update(answer)

            await _in_parts(size, part_bytes, fetch_part)
        return details

    async def put(self, bucket: str, key: str, file: Path, part_bytes: int | None) -> None:
        """Send a local file: a large one in parts side by side, as an upload that appears when it is complete."""
        request: dict[str, Any] = {"Bucket": bucket, "Key": key}
        kind, _ = mimetypes.guess_type(key)
        described = request | ({"ContentType": kind} if kind else {})
        size = file.stat().st_size
        part_bytes = part_bytes or max(PART_BYTES, -(-size // MOST_PARTS))
        if size < 2 * part_bytes:
            await self._send("put_object", **described, Body=file.read_bytes())
            return
        created = await self._send("create_multipart_upload", **described)
        request["UploadId"] = created["UploadId"]
        with file.open("rb") as stream:

            async def send_part(start: int, length: int) -> dict[str, Any]:
                stream.seek(start)
                number = start // part_bytes + 1
                sent = await self._send("upload_part", **request, PartNumber=number, Body=stream.read(length))
                return {"PartNumber": number, "ETag": sent["ETag"]}

            try:
                parts = await _in_parts(size, part_bytes, send_part)
                await self._send("complete_multipart_upload", **request, MultipartUpload={"Parts": parts})
            except BaseException:
                with suppress(*FAULTS):  # once only, without an error: the user should read what led here
                    await (await self._connected()).abort_multipart_upload(**request)
                raise

    async def _connected(self) -> Any:
        """Botocore's client, as s3fs makes it, by the first who asks; ConfigError where settings are wrong."""
        once = {"mode": "standard", "total_max_attempts": 1}
        config = {"retries": once, "connect_timeout": self._retry.connect_s, "read_timeout": self._retry.read_s}
        async with self._connecting:
            if self._client is None:
                files = s3fs.S3FileSystem(
                    asynchronous=True, loop=self._loop, skip_instance_cache=True, config_kwargs=config
                )
                try:
                    self._client = await files.set_session()
                except ValueError as error:
                    raise ConfigError(
                        f"no S3 storage at {variable('AWS_ENDPOINT_URL')!r}: {one_line(error)}; write an address like "
                        "https://host:9000 into AWS_ENDPOINT_URL, or as endpoint_url of the AWS profile, and check the "
                        "other variables AWS_*"
                    ) from error
        return self._client

    def _close(self) -> None:
        if self._client:
            with suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(timeout=1)


async def _in_parts(size: int, part_bytes: int, action: Callable[[int, int], Awaitable[T]]) -> list[T]:
    """Results of an action on each part, its start and length; a few at once, and the first failure ends them all."""
    room = asyncio.Semaphore(PARTS_AT_ONCE)

    async def act(start: int) -> T:
        async with room:
            return await action(start, min(part_bytes, size - start))

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(act(start)) for start in range(0, size, part_bytes)]
    except ExceptionGroup as failed:  # the others were cancelled
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
    return [task.result() for task in tasks]
