"""A run whose worker has gone has nobody to write its lines to."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.exceptions import CancelledRun

import tasks  # noqa: F401  # sets up the logs
from zssmnet.errors import CubesError

CODE = """
import logging, sys
from pathlib import Path
from prefect.logging.configuration import setup_logging
import tasks
setup_logging()
log = logging.getLogger("zssmnet.tasks")
log.info("there")
sys.stdin.read()
for _ in range(3):
    log.info("gone")
Path(sys.argv[1]).write_text("went on")
"""


def test_a_run_goes_on_when_nobody_reads_its_lines(tmp_path: Path) -> None:
    """As long as it writes them with Prefect's handler; ``print`` would fail."""
    command = [sys.executable, "-c", CODE, str(tmp_path / "end")]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.stdin
    assert run.stdout
    assert b"there" in run.stdout.readline()
    run.stdout.close()
    run.stdin.close()
    assert run.wait(timeout=900) == 0
    assert (tmp_path / "end").read_text() == "went on"


@pytest.mark.parametrize(("error", "lines"), [
    (CancelledRun("by a user"), []),
    (CubesError("no cubes"), [("it ended", None)]),
])  # fmt: skip
def test_foreseen_ends_of_a_run_have_no_traceback(error: Exception, lines: list[tuple[str, None]]) -> None:
    kept: list[tuple[str, object]] = []
    handler = logging.Handler()
    handler.emit = lambda record: kept.append((record.getMessage(), record.exc_info))  # type: ignore[method-assign]
    log = logging.getLogger("prefect.flow_runs")
    log.addHandler(handler)
    try:
        log.error("it ended", exc_info=error, extra={"send_to_api": False})
    finally:
        log.removeHandler(handler)
    assert kept == lines
