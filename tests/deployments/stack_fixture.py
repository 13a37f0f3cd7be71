"""A local stack for one test, or for many."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments import local_settings
from deployments.local_settings import LocalSettings
from deployments.stack import LocalStack

FAST = {"PREFECT_WORKER_QUERY_SECONDS": "1"}
STAND_INS = {
    "server": """
import http.server, os, signal
print(signal.getsignal(signal.SIGINT), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PREFECT_SERVER_API_PORT"])), Handler).serve_forever()
""",
    "setup": "print('set up')",
    "worker": """
import subprocess, sys, time
run = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('run reports its end', flush=True))); \
print('run begins', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", run], start_new_session=True)
time.sleep(600)
""",
}
"""Programs in place of Prefect's: a server that answers, and workers with a run each."""


@contextmanager
def temporary_stack(s3: str | None = None, **overrides: str) -> Iterator[LocalStack]:
    """A stack in a folder of its own, over SQLite, not started; both go with the block.

    The folder's parent is open to all users, unlike pytest's.

    Args:
        s3: the address of an S3 service, whose keys are in the environment; folders if not given.
        overrides: settings for all services and clients.
    """
    folder = Path(tempfile.mkdtemp(prefix="zssmnet-stack-"))
    folder.chmod(0o755)
    stack = LocalStack(folder / ".service", FAST | {"ZSSMNET_CACHE": str(folder / ".service" / "cache")} | overrides)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ENDPOINT_URL", "ZSSMNET_BUCKET", "CUDA_VISIBLE_DEVICES"):  # of other tests
                patch.delenv(name, raising=False)
            if s3:
                patch.setenv("AWS_ENDPOINT_URL", s3)
            yield stack
    finally:
        stack.stop()
        assert not stack.processes(), "a process is left"
        shutil.rmtree(folder)


@contextmanager
def stand_ins(**programs: str) -> Iterator[None]:
    """Let stacks run other programs than Prefect's, `STAND_INS` where none is given; they are soon ready."""

    def command(settings: LocalSettings, name: str) -> list[str]:
        kind = "worker" if name.endswith("-worker") else name
        script = settings.folder / f"{kind}.py"
        script.write_text(programs.get(kind, STAND_INS[kind]))
        return [sys.executable, str(script)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalSettings, "command", command)
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as template:
            template.write(local_settings._TEMPLATE.read_text().replace("startsecs = 5", "startsecs = 0"))
            template.flush()
            patch.setattr(local_settings, "_TEMPLATE", Path(template.name))
            yield


def pid_of(stack: LocalStack, service: str) -> int | None:
    """The process id of a service, if it runs."""
    return stack.services().get(service, {}).get("pid") or None


def processes_of(stack: LocalStack, service: str) -> list[int]:
    """All processes that a service has started, itself aside."""
    mark = f"SUPERVISOR_PROCESS_NAME={service}".encode()
    others = stack.processes() - {pid_of(stack, service)}
    return [one for one in others if was_given(one, mark)]


def was_given(process: int, variable: bytes) -> bool:
    """Whether ``NAME=value`` is in the environment that a process was started with; not if it has ended meanwhile."""
    try:
        return variable in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def kill(stack: LocalStack, service: str) -> None:
    """Kill the process of a service, as a crash would, and wait until it is back; what it started runs on."""
    pid = pid_of(stack, service)
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid_of(stack, service) not in (None, pid))


def take_down(stack: LocalStack, service: str) -> None:
    """Stop a service until it is started again."""
    assert stack._supervisor("stopProcess", service)


def wait_for(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {timeout_s} s"
        time.sleep(0.1)
