"""With ``--prefect`` a command is a flow, on Prefect's own temporary server where none is named."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zssmnet.examinations import Archive


@pytest.mark.long
def test_a_command_is_a_flow_on_a_temporary_server(tmp_path: Path) -> None:
    """Its database, which stays, has the run, its tasks and its page."""
    archive = Archive(tmp_path / "archive")
    for number in range(2):
        archive.add(f"{10001 + number}_{1000001 + number}", seed=number)
    words = ["prepare", "--images_path", archive.images.uri, "--zonal_mask_path", archive.masks.uri]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--output_path", str(tmp_path / "data"), "--prefect"],
        env=kept
        | {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"2 cases prepared, 0 up to date, 0 left out: {tmp_path / 'data'}\n"
    assert "Traceback" not in done.stderr
    database = sqlite3.connect(tmp_path / "prefect" / "prefect.db")
    try:
        ((name, state),) = database.execute("select name, state_name from flow_run").fetchall()
        keys = {key for (key,) in database.execute("select key from artifact")}
    finally:
        database.close()
    assert name.startswith("prepare-data data ")
    assert state == "Completed"
    assert {"summary", "prepare-progress"} <= keys
