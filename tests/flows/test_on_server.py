"""Commands as flows: every mistake in naming a server, or a Dask cluster for its tasks, is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from flows.on_server import _check_server, run_flow
from tasks.runner import DASK_ADDRESS, task_runner
from tests.zssmnet.examinations import Archive
from zssmnet.errors import ConfigError, ServiceError
from zssmnet.runner import core_count

NOBODY = "tcp://127.0.0.1:1"


@pytest.mark.parametrize(
    ("address", "error", "line"),
    [
        ("localhost:4200", ConfigError, "PREFECT_API_URL=localhost:4200: no address of a server"),
        ("http://127.0.0.1:9/api", ServiceError, "PREFECT_API_URL=http://127.0.0.1:9/api: no usable Prefect server"),
    ],
)
def test_a_named_server_that_cannot_be_used_is_one_line(address: str, error: type[Exception], line: str) -> None:
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(error) as caught:
        run_flow(None, {})
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (("http://", "https://"), "it speaks http://, not https://"),
        (("/api", "/v1"), "the address of its API ends in /api"),
    ],
)
def test_an_address_that_is_nearly_right_is_put_right(change: tuple[str, str], hint: str, prefect_api: str) -> None:
    address = prefect_api.replace(*change)
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(ServiceError) as caught:
        _check_server(address)
    assert str(caught.value).endswith(f"; {hint}, or unset PREFECT_API_URL to work without it")


def test_tasks_run_in_threads_one_a_core_or_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DASK_ADDRESS, raising=False)
    here = task_runner()
    assert isinstance(here, ThreadPoolTaskRunner)
    assert here._max_workers == core_count()
    monkeypatch.setenv(DASK_ADDRESS, NOBODY)
    elsewhere = task_runner()
    assert (type(elsewhere).__name__, elsewhere.address) == ("DaskTaskRunner", NOBODY)  # type: ignore[attr-defined]


def test_tasks_elsewhere_need_a_server_that_they_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DASK_ADDRESS, NOBODY)
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(ConfigError) as caught:
        run_flow(None, {})
    assert str(caught.value).startswith(f"{DASK_ADDRESS}={NOBODY}: tasks on Dask's workers report to a Prefect server")
    assert "\n" not in str(caught.value)


def prepare(tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    archive = Archive(tmp_path)
    archive.add("10001_1000001")
    archive.add("10002_1000002")
    words = ["prepare", "--images_path", archive.images.uri, "--zonal_mask_path", archive.masks.uri]
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words, "--output_path", str(tmp_path / "data")],
        env=os.environ | {DASK_ADDRESS: NOBODY} | environment,
        capture_output=True,
        text=True,
    )


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, prefect_api: str) -> None:
    done = prepare(tmp_path, PREFECT_API_URL=prefect_api, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="1s")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"zssmnet: error: {DASK_ADDRESS}={NOBODY}: Timed out trying to connect")
    assert "Traceback" not in done.stdout + done.stderr


def test_dask_that_is_not_installed(tmp_path: Path) -> None:
    """A path on which a package of this name cannot be imported stands for one without it."""
    (tmp_path / "prefect_dask.py").write_text("raise ModuleNotFoundError('none', name='prefect_dask')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = prepare(tmp_path, PYTHONPATH=path, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert done.stderr == "zssmnet: error: this command needs prefect_dask: pip install 'zssmnet[dask]'\n"
