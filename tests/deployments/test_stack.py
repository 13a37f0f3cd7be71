"""The stack of local processes: what is started, found again, restarted and ended, and who can get at it."""

import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from deployments import stack
from deployments.local_settings import StackError
from deployments.stack import LocalStack
from tests.deployments.stack_fixture import (
    kill,
    pid_of,
    processes_of,
    stand_ins,
    temporary_stack,
    wait_for,
)
from tests.integration.service import PATIENCE_S, connected
from tests.phantoms import small_archive
from tests.reliability.killing import digests
from zssmnet.storage.verification import verify_root

ALL = ["cpu-worker", "gpu-worker", "server"]
NOBODY = 65534


@pytest.fixture
def started() -> Iterator[LocalStack]:
    """A stack of stand-ins that runs."""
    with stand_ins(), temporary_stack() as local:
        assert local.start()
        yield local


def pids(local: LocalStack) -> list[int | None]:
    return [pid_of(local, name) for name in ALL]


def log(local: LocalStack, name: str) -> str:
    return (local.folder / "logs" / f"{name}.log").read_text()


# --- processes, with stand-ins for Prefect's programs


def test_a_second_start_leaves_what_runs_and_a_stop_ends_everything(started: LocalStack):
    """Runs, which have sessions of their own, get to report their end before their worker is ended."""
    before = pids(started)
    assert None not in before
    assert not started.start()
    assert pids(started) == before
    wait_for(lambda: all("run begins" in log(started, name) for name in ("cpu-worker", "gpu-worker")))
    assert len(started.processes()) == 1 + 3 + 2
    assert started.stop()
    assert not started.processes()
    assert not started.stop()
    for name in ("cpu-worker", "gpu-worker"):
        assert "run reports its end" in log(started, name)


def test_what_dies_comes_back_and_what_it_left_is_ended_with_the_stack(started: LocalStack):
    wait_for(lambda: "run begins" in log(started, "cpu-worker"))
    (run,) = processes_of(started, "cpu-worker")
    kill(started, "cpu-worker")
    wait_for(lambda: len(processes_of(started, "cpu-worker")) == 2)
    assert run in processes_of(started, "cpu-worker")
    kill(started, "server")
    started.stop()
    assert not started.processes()


def test_a_start_after_supervisor_was_killed_ends_what_it_left(started: LocalStack):
    before, supervisor = started.processes(), int((started.folder / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not started.services())
    assert started.processes() >= before - {supervisor}  # and what they have started meanwhile
    assert started.start()
    assert not started.processes() & before
    assert sorted(started.services()) == ALL


def test_a_stop_after_supervisor_was_killed_ends_what_it_left(started: LocalStack):
    os.kill(int((started.folder / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: not started.services())
    assert started.stop()
    assert not started.processes()


def test_a_folder_that_was_moved_while_the_service_ran_is_one_line_until_it_is_stopped(started: LocalStack):
    place = started.folder.rename(started.folder.parent / "moved")
    moved = LocalStack(place)
    with pytest.raises(StackError, match=f"was moved here from {started.folder} meanwhile: stop it with"):
        moved.start()
    assert moved.stop()
    assert moved.start()
    assert moved.stop()


def test_what_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stack, "RUNS_END_S", 0.5)
    monkeypatch.setattr(stack, "ENDS_S", 3)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    with stand_ins(worker=deaf), temporary_stack() as local:
        local.start(["server", "cpu-worker"])
        monkeypatch.setattr(LocalStack, "_supervisor", lambda *_: None)  # it would wait for longer
        assert local.stop()
        assert not local.processes()


@pytest.mark.parametrize("after_s", [0, 2])
def test_a_service_that_ends_before_it_is_ready_says_its_last_words(after_s: float):
    """At once, or when supervisor takes it for running."""
    server = f"import time; time.sleep({after_s}); print('the port is cursed')"
    with stand_ins(server=server), temporary_stack() as local:
        with pytest.raises(
            StackError, match=r"server exited before it was ready: the port is cursed \(see .*server.log"
        ):
            local.start()
        assert pids(local) == [None] * 3


def test_a_setup_that_fails_is_one_line_and_is_done_again():
    with temporary_stack() as local:
        with (
            stand_ins(setup="raise SystemExit('no such server')"),
            pytest.raises(StackError, match="setup failed: no such server"),
        ):
            local.start()
        assert [name for name in ALL if pid_of(local, name)] == ["server"]
        with stand_ins():
            assert not local.start(["setup"])


def test_a_service_started_by_a_script_in_the_background_can_be_interrupted():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what runs in its background
    try:
        with stand_ins(), temporary_stack() as local:
            local.start(["server"])
            assert "default_int_handler" in log(local, "server")
    finally:
        signal.signal(signal.SIGINT, before)


def test_files_of_runs_have_the_umask_of_who_started_it_and_those_of_the_service_are_its_owner_s():
    worker = "import time; open('made', 'w').close(); print('made', flush=True); time.sleep(600)"
    before = os.umask(0o027)
    try:
        with stand_ins(worker=worker), temporary_stack() as local:
            local.start(["server", "cpu-worker"])
            wait_for(lambda: "made" in log(local, "cpu-worker"))
            assert stat.S_IMODE((local.folder / "made").stat().st_mode) == 0o640
            places = [local.folder, *local.folder.iterdir(), *(local.folder / "logs").iterdir()]
            assert not [one for one in places if one.name != "made" and stat.S_IMODE(one.stat().st_mode) & 0o077]
    finally:
        os.umask(before)


# --- the command line


def run_main(command: str, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    code = f"import sys, pathlib; from deployments import stack; stack.FOLDER = pathlib.Path({str(folder)!r}); "
    words = [sys.executable, *options, "-c", f"{code}sys.exit(stack.main([{command!r}]))"]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


def test_status_and_stop_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(stack, "FOLDER", tmp_path / ".service")
    assert stack.main(["status"]) == 1
    assert stack.main(["stop"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "start what is not running with 'zssmnet-service start'",
        "the service is not running",
    ]
    assert not (tmp_path / ".service").exists()


@pytest.mark.parametrize(("make", "reason"), [
    ("touch service", "service: is not a folder"),
    ("mkdir service && echo '{}' > service/state.json", "service/state.json: cannot be read: Field required"),
    ("mkdir -p service/state.json", "service/state.json: cannot be read: "),
    ("ln -s /proc/nothing service", "service: "),
    ("mkdir service && touch service/logs", "service/logs: is not a folder"),
])  # fmt: skip
def test_errors_are_one_line(
    make: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    subprocess.run(["sh", "-c", make], cwd=tmp_path, check=True)
    monkeypatch.setattr(stack, "FOLDER", tmp_path / "service")
    assert stack.main(["start"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zssmnet: error: {tmp_path}/{reason}")


def test_what_needs_a_service_that_was_never_started_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As after a restore that failed: the folder is there, and empty."""
    monkeypatch.setattr(stack, "FOLDER", tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for command in (["test-message"], ["backup", str(tmp_path / "file")]):
        assert stack.main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"zssmnet: error: {tmp_path}: there is no service")


def test_a_path_too_long_for_a_socket_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(stack, "FOLDER", tmp_path / ("long" * 25))
    with stand_ins():
        assert stack.main(["start"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "AF_UNIX path too long" in line


def test_help_and_status_without_docstrings(tmp_path: Path):
    done = run_main("status", tmp_path / "none", "-OO")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is warned")
def test_root_is_warned(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with stand_ins(), temporary_stack() as local:
        monkeypatch.setattr(stack, "FOLDER", local.folder)
        assert stack.main(["start"]) == 0
        assert stack.main(["start"]) == 0
        first, second = capsys.readouterr().out.split("stop it:")[:2]
        assert stack.main(["status"]) == 0
    assert first.startswith("note: started as root: every run has root's rights")
    assert "server is running\nsetup is done\ncpu-worker is running\n" in first
    assert "the service is already running" in second


# --- for real


@pytest.fixture(scope="module")
def real() -> Iterator[LocalStack]:
    """All of it, once for this module."""
    with temporary_stack(OMP_NUM_THREADS="1") as local:
        local.start()
        yield local


def answer(local: LocalStack, path: str, auth: str | None = None) -> int:
    headers = {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"} if auth else {}
    request = urllib.request.Request(f"{local.environment['PREFECT_API_URL']}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


def listening(processes: set[int]) -> list[str]:
    """Addresses that these processes listen on, as in /proc/net/tcp."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    sockets = {f"socket:[{row[9]}]": row[1] for row in rows if row[3] == "0A"}
    handles = [handle for one in processes for handle in Path(f"/proc/{one}/fd").iterdir()]
    return [sockets[target] for handle in handles if (target := str(handle.readlink())) in sockets]


@pytest.mark.integration
def test_one_port_is_open_to_this_machine_and_asks_for_a_password(real: LocalStack):
    port = real.settings.state.ports["server"]
    assert listening(real.processes()) == [f"0100007F:{port:04X}"]
    assert answer(real, "/health") == answer(real, "/ready") == 200
    for path in ("/admin/version", "/admin/settings", "/version", "/metrics", "/flow_runs/filter", "/docs"):
        assert answer(real, path) == answer(real, path, "zssmnet:wrong") == 401
    for path in ("/admin/version", "/metrics"):
        assert answer(real, path, real.environment["PREFECT_API_AUTH_STRING"]) == 200


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_can_list_read_or_write_anything(real: LocalStack):
    places = [real.folder, *sorted(real.folder.rglob("*"))]
    assert {"prefect.db", "state.json", "env", "supervisor.sock", "server.log"} <= {one.name for one in places}
    ways = 'ls "$one/" || cat "$one" || test -w "$one" || test -x "$one"'
    script = f'for one; do {{ {ways}; }} >/dev/null 2>&1 && echo "$one"; done; true'
    words = ["sh", "-c", script, "sh", *map(str, places)]
    done = subprocess.run(
        words, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout == ""
    owner_s = subprocess.run(words, capture_output=True, text=True, check=True)
    assert owner_s.stdout.splitlines() == [*map(str, places)]


@pytest.mark.integration
def test_killed_server_and_worker_come_back_and_work(real: LocalStack):
    for name in ("server", "gpu-worker"):
        kill(real, name)
    wait_for(lambda: all(one["statename"] == "RUNNING" for one in real.services().values()) and real._answers(), 600)
    with connected(real) as service:

        def online() -> set[str]:
            pools = [
                service.client.request("POST", f"/work_pools/{one}/workers/filter", json={}) for one in ("cpu", "gpu")
            ]
            return {one["name"] for pool in pools for one in pool.json() if one["status"] == "ONLINE"}

        wait_for(lambda: online() == {"cpu", "gpu0"}, 600)


@pytest.mark.integration
@pytest.mark.long
def test_a_run_that_stops_cut_off_in_every_stage_ends_well(real: LocalStack, tmp_path: Path):
    """On local folders; the archive, the password and the address stay as they were."""
    images, masks = small_archive(tmp_path / "archive", 12)
    recipe = {"network": {"channels": [2, 2, 2, 2, 2]}, "corruption": {"shuffling": {"windows": 50}}}
    training = {"epochs": 8, "patience": 8, "batch_size": 4, "device": "cpu"}
    parameters = {
        "images_path": str(images),
        "zonal_mask_path": str(masks),
        "root": str(tmp_path / "root"),
        "cubes": {"cubes_per_case": 2},
        "pretraining": {**recipe, "training": training},
    }
    environment, archive = real.environment, digest(tmp_path / "archive")
    with connected(real) as service:
        run = service.start("ssl-pretraining", parameters)
    for stage in ("data", "generated_cubes", "pretrained_weights/training"):
        begun = tmp_path / "root" / "SSL" / stage
        wait_for(lambda begun=begun: has_begun(begun), 900)  # type: ignore[misc]
        began = time.monotonic()
        assert real.stop()
        assert time.monotonic() - began < 90
        assert real.start()
        assert real.environment == environment
    with connected(real) as service:
        service.until(lambda: service.state(run)[0] in ("Completed", "Failed"), 3 * PATIENCE_S)  # Crashed is no end
        assert service.state(run)[0] == "Completed", service.log(run)
        assert service.client.read_flow_run(run.id).run_count == 4
        undisturbed = service.start("ssl-pretraining", {**parameters, "root": str(tmp_path / "undisturbed")})
        assert service.ended(undisturbed)[0] == "Completed", service.log(undisturbed)
    assert digest(tmp_path / "archive") == archive
    assert verify_root(str(tmp_path / "root")) == []
    assert digests(str(tmp_path / "root")) == digests(str(tmp_path / "undisturbed"))


def has_begun(stage: Path) -> bool:
    """Whether a stage has published or written anything: locks do not count."""
    return any(one.is_file() and ".lock" not in one.parts for one in stage.rglob("*"))


def digest(folder: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in folder.rglob("*") if one.is_file()}
