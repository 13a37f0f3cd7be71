"""A local stack for one test, or for many."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments import processes
from deployments.stack import SERVICES, LocalStack

FAST = {"PREFECT_WORKER_QUERY_SECONDS": "1"}


@contextmanager
def temporary_stack(**overrides: str) -> Iterator[LocalStack]:
    """A stack in a folder and with an S3 of its own, not started; it ends, and its folder goes, with the block.

    The folder is not pytest's: that is closed to all but its owner, and root's PostgreSQL runs as another user.
    """
    folder = Path(tempfile.mkdtemp(prefix="zssmnet-stack-"))
    folder.chmod(0o711)
    stack = LocalStack(folder, FAST | {"ZSSMNET_CACHE": str(folder / "cache")} | overrides)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_ENDPOINT_URL", raising=False)  # of other tests
            yield stack
    finally:
        stack.stop()
        shutil.rmtree(folder)
    assert not any(processes.marked(f"{folder}:{name}") for name in SERVICES), "a process is left"


def kill(stack: LocalStack, service: str) -> None:
    """Kill the process of a service, as a crash would; what it started runs on."""
    pid = stack.pid(service)
    assert pid
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_for(lambda: stack.pid(service) is None, 30)


@pytest.fixture
def local_stack() -> Iterator[LocalStack]:
    """A stack that is not started."""
    with temporary_stack() as stack:
        yield stack
