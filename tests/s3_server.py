"""A real S3 endpoint over HTTP, in a process of its own: moto's, with conditional writes one at a time, as S3 has them.

moto looks whether the condition holds, and then writes; another thread may write between the two.
"""

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

STARTUP_S = 60


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The endpoint's address; the environment of the session leads S3 tools to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, __file__, "127.0.0.1", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        try:
            _wait_for(endpoint, server)
            yield endpoint
        finally:
            server.terminate()
            server.wait(timeout=STARTUP_S)


@pytest.fixture
def s3_root(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix in a new bucket, and a local cache of its own."""
    monkeypatch.setenv("ZSSMNET_CACHE", str(tmp_path / "cache"))
    assert os.environ["AWS_ENDPOINT_URL"] == s3_endpoint
    return new_root()


def new_root() -> str:
    """A prefix in a new bucket."""
    import s3fs

    bucket = f"test-{time.time_ns()}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(bucket)
    return f"s3://{bucket}/some/prefix"


def serve(host: str, port: int) -> None:
    """Serve until the process ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    application = DomainDispatcherApplication(create_backend_app)
    one_at_a_time = threading.Lock()

    def serialized(environment: dict[str, Any], start_response: Any) -> Any:
        is_conditional = environment["REQUEST_METHOD"] in ("PUT", "DELETE") and (
            "HTTP_IF_MATCH" in environment or "HTTP_IF_NONE_MATCH" in environment
        )
        with one_at_a_time if is_conditional else nullcontext():
            return application(environment, start_response)

    run_simple(host, port, serialized, threaded=True)


def _wait_for(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the S3 endpoint did not start within {STARTUP_S} s")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
