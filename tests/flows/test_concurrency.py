"""Where tasks run is a matter of the environment; every mistake there is one line."""

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flows.concurrency import check_choice, chosen_runner
from flows.dask_settings import ADDRESS, ARGUMENTS, CLUSTER
from flows.on_dask import OnDask
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from tests.reliability.command import zssmnet
from tests.zssmnet.examinations import Archive
from zssmnet.errors import ConfigError, ServiceError

NOBODY = "tcp://127.0.0.1:1"
LOCAL = "dask.distributed.LocalCluster"
MISTAKES = [
    ({ADDRESS: NOBODY, CLUSTER: LOCAL}, f"{ADDRESS}={NOBODY} and {CLUSTER}={LOCAL}: unset one of the two"),
    ({ADDRESS: NOBODY, ARGUMENTS: "{}"}, f"{ADDRESS}={NOBODY}: a cluster that is there takes no arguments; unset"),
    ({ARGUMENTS: "{}"}, f"{ARGUMENTS} is set, but {CLUSTER} is not: name the cluster's class there"),
    ({CLUSTER: LOCAL, ARGUMENTS: "{n_workers: 2}"}, f"{ARGUMENTS}: not JSON: Expecting property name .* column 2 .*; "),
    ({CLUSTER: LOCAL, ARGUMENTS: "[2]"}, f"{ARGUMENTS}: a list, not an object; write one like"),
    ({CLUSTER: LOCAL, ARGUMENTS: '{"asynchronous": true}'}, f"{ARGUMENTS}: .* cannot set `asynchronous`"),
    ({CLUSTER: "no_such.Cluster"}, f"{CLUSTER}=no_such.Cluster: cannot be imported: .*no_such.*; name one with its"),
    ({CLUSTER: "dask.distributed.Nothing"}, f"{CLUSTER}=dask.distributed.Nothing: .*; name one with its module"),
    ({CLUSTER: "LocalCluster"}, f"{CLUSTER}=LocalCluster: cannot be imported: .*; name one with its module"),
    ({CLUSTER: "pathlib.Path"}, f"{CLUSTER}=pathlib.Path: no class of a Dask cluster; name one with its module"),
]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ADDRESS, CLUSTER, ARGUMENTS):
        monkeypatch.delenv(name, raising=False)


def chosen_with(monkeypatch: pytest.MonkeyPatch, **variables: str) -> object:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return chosen_runner()


def first_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_the_variables_tasks_run_in_threads_here() -> None:
    assert type(chosen_runner()) is ThreadPoolTaskRunner
    check_choice()


def test_an_address_names_a_cluster_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_with(monkeypatch, **{ADDRESS: NOBODY}) == OnDask(address=NOBODY)


def test_a_class_names_a_cluster_that_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = chosen_with(monkeypatch, **{CLUSTER: LOCAL, ARGUMENTS: '{"n_workers": 2}'})
    assert runner == OnDask(cluster_class=LOCAL, cluster_kwargs={"n_workers": 2})


@pytest.mark.parametrize(("variables", "line"), MISTAKES)
def test_a_mistake_is_told_by_the_command_and_by_the_first_task(
    variables: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = chosen_with(monkeypatch, **variables)
    with pytest.raises(ConfigError) as by_command:
        check_choice()
    assert re.match(line, first_line(by_command))
    with runner.duplicate() as running, pytest.raises(ConfigError, match=line):  # type: ignore[attr-defined]
        running.submit(None, {})


def test_arguments_which_may_hold_passwords_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen_with(monkeypatch, **{CLUSTER: LOCAL, ARGUMENTS: '{"password": "hunter2"'})
    with pytest.raises(ConfigError) as error:
        check_choice()
    assert "hunter2" not in first_line(error)


def test_tasks_elsewhere_need_a_server_that_they_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = chosen_with(monkeypatch, **{ADDRESS: NOBODY})
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        with pytest.raises(ConfigError) as by_command:
            check_choice()
        with runner as running, pytest.raises(ConfigError) as by_task:  # type: ignore[attr-defined]
            _ = running.client
    assert first_line(by_command) == first_line(by_task)
    assert first_line(by_task).startswith(f"{ADDRESS}={NOBODY}: tasks on Dask's workers report to a Prefect server")


@pytest.mark.filterwarnings("ignore:unclosed cluster")  # Dask's own, of a cluster that was refused half-made
@pytest.mark.parametrize(
    ("settings", "error", "line"),
    [
        ({"address": NOBODY}, ServiceError, f"{ADDRESS}={NOBODY}: .*; see to the cluster, or change {ADDRESS}"),
        ({"address": "http://a:1"}, ConfigError, f"{ADDRESS}=http://a:1: .*; change {ADDRESS}, or unset it"),
        (
            {"cluster_class": LOCAL, "cluster_kwargs": {"n_workers": "two"}},
            ConfigError,
            f"{CLUSTER}={LOCAL}: .*; change {CLUSTER} and {ARGUMENTS}, or unset it",
        ),
    ],
)
def test_a_cluster_that_cannot_be_had(settings: dict[str, object], error: type[Exception], line: str) -> None:
    import dask.config

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        OnDask(**settings) as runner,
        pytest.raises(error) as raised,
    ):
        _ = runner.client
    line_told = first_line(raised)
    del runner, raised
    gc.collect()
    assert re.match(line, line_told)


def test_a_command_ends_with_one_line(tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Archive(tmp_path)
    archive.add()
    words = ["prepare", "--images_path", archive.images.uri, "--zonal_mask_path", archive.masks.uri]
    words += ["--output_path", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        env=os.environ
        | {ADDRESS: NOBODY, "PREFECT_API_URL": prefect_api, "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"zssmnet: error: {ADDRESS}={NOBODY}: Timed out trying to connect")
    assert "Traceback" not in done.stdout + done.stderr
    monkeypatch.setenv(CLUSTER, "no_such.Cluster")
    ended = zssmnet(*words)
    assert ended.status == 2
    assert ended.line.startswith(f"zssmnet: error: {CLUSTER}=no_such.Cluster: cannot be imported")


def test_dask_that_is_not_installed(tmp_path: Path) -> None:
    """A path on which a package of this name cannot be imported stands for one without it."""
    (tmp_path / "prefect_dask.py").write_text("raise ModuleNotFoundError(\"No module named 'prefect_dask'\")")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "cubes", "--data", "a", "--save", "b"],
        env=os.environ | {ADDRESS: NOBODY, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (reported,) = done.stderr.splitlines()
    assert reported.startswith(f"zssmnet: error: {ADDRESS}={NOBODY}: No module named 'prefect_dask'; install it with")
