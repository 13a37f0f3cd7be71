"""The stack of local processes."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest

from deployments import postgres, processes, stack
from deployments.compose import read_compose, substitute
from deployments.places import Places
from deployments.processes import Process, StackError
from deployments.stack import LocalStack
from tests.deployments.stack_fixture import kill
from tests.deployments.stack_fixture import local_stack as local_stack

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
SLEEPING_CHILD = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "time.sleep(60)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A mark whose processes are gone after the test."""
    yield str(tmp_path)
    assert processes.end(lambda: processes.marked(str(tmp_path)), signal.SIGKILL, 10)


def start(command: list[str], mark: str, folder: Path) -> Process:
    return processes.start(command, os.environ, mark, folder / "log", folder)


# --- commands and settings


@pytest.mark.parametrize("name", ["server", "setup", "cpu-worker", "gpu-worker"])
def test_commands_are_those_of_the_compose_file(name: str, tmp_path: Path):
    """But for one word: the background services run within the server, since there is no Redis."""
    said = [substitute(word, {}) for word in read_compose()["services"][name]["command"]]
    program, *arguments = Places(tmp_path, {}, {}).command(name)
    assert arguments == [word for word in said[1:] if word != "--no-services"]
    assert Path(program).parent == Path(sys.executable).parent
    assert Path(program).name == (Path(sys.executable).name if said[0] == "python" else said[0])
    assert ("--no-services" in said) == (name == "server")


def test_settings_are_those_of_the_compose_file_but_for_places(tmp_path: Path):
    said = read_compose()["services"]["cpu-worker"]["environment"]
    given = LocalStack(tmp_path).environment
    for name in ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK", "DO_NOT_TRACK"):
        assert given[name] == said[name]
    dask = {"ZSSMNET_DASK_ADDRESS", "ZSSMNET_DASK_CLUSTER", "ZSSMNET_DASK_CLUSTER_ARGUMENTS"}
    certificates = {"PREFECT_API_SSL_CERT_FILE", "AWS_CA_BUNDLE"}  # taken over from the shell, as the others are
    of_containers = {"PREFECT_WORKER_WEBSERVER_PORT", "ZSSMNET_CACHE_GB", "GOMP_SPINCOUNT"}
    assert set(said) - set(given) == of_containers | certificates | dask
    assert {name for name in said if given.get(name) != said[name] and name in given} == {
        *("PREFECT_API_URL", "PREFECT_UI_URL", "PREFECT_API_AUTH_STRING"),
        *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "ZSSMNET_BUCKET"),
    }


def test_nothing_leads_to_redis(tmp_path: Path):
    environment = Places(tmp_path, {}, {}).environment("server")
    assert not [name for name, value in environment.items() if name.startswith("PREFECT_") and "redis:" in value]
    assert "prefect_redis" not in " ".join(environment.values())


def test_settings_of_another_server_are_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    monkeypatch.setenv("PREFECT_API_KEY", "foreign")
    places = Places(tmp_path, {"PREFECT_WORKER_QUERY_SECONDS": "1"}, {})
    environment = places.environment("cpu-worker")
    assert environment["PREFECT_API_URL"] == f"{places.address('server')}/api"
    assert "PREFECT_API_KEY" not in environment
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "1"


def test_runs_on_the_cpu_see_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    places = Places(tmp_path, {}, {})
    assert places.environment("cpu-worker")["CUDA_VISIBLE_DEVICES"] == ""
    assert places.environment("gpu-worker")["CUDA_VISIBLE_DEVICES"] == "0"


def test_an_s3_service_that_is_named_takes_the_place_of_moto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    local = LocalStack(tmp_path)
    own = local.environment["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", own)  # as after `. .service/env`
    assert "s3" in local.services()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.org")
    assert "s3" not in local.services()
    with pytest.raises(StackError, match="AWS_ACCESS_KEY_ID is not: set it, too"):
        _ = local.environment
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert local.environment["AWS_ENDPOINT_URL"] == "https://s3.example.org"
    assert local.environment["AWS_SECRET_ACCESS_KEY"] == "b"


def test_without_postgresql_sqlite_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres, "_binaries", lambda: None)
    local = LocalStack(tmp_path)
    settings = local.places.environment("server")
    assert settings["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    assert not [
        name for name in settings if name.startswith("PREFECT_SERVER_DATABASE_") and name[24:] in ("HOST", "DRIVER")
    ]
    assert "postgres" not in local.services()
    assert any("SQLite serves" in warning for warning in stack._warnings(local))


def test_what_is_drawn_is_kept_and_hidden(tmp_path: Path):
    folder = tmp_path / "service"
    environment = LocalStack(folder).environment
    assert LocalStack(folder).environment == environment
    assert (
        LocalStack(tmp_path / "other").environment["PREFECT_API_AUTH_STRING"] != environment["PREFECT_API_AUTH_STRING"]
    )
    for name in ("state.json",):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)


def test_ports_are_different_and_free_and_given_up_when_others_take_them(tmp_path: Path):
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        taken = foreign.getsockname()[1]
        places = Places(tmp_path, {}, {"server": taken})
        assert places.port("server") != taken
        assert len({places.port(name) for name in stack.SERVICES}) == len(stack.SERVICES)
        state = json.loads((tmp_path / "state.json").read_text())
        state["ports"]["server"] = taken
        (tmp_path / "state.json").write_text(json.dumps(state))
        places = Places(tmp_path, {}, {})
        places.take_port("server")
        assert places.port("server") != taken
        assert Places(tmp_path, {}, {}).port("server") == places.port("server")


def test_the_environment_can_be_read_by_a_shell(tmp_path: Path):
    places = Places(tmp_path, {"WITH_BLANKS": "it's a 'test' $HOME"}, {})
    places.write_environment()
    command = ["sh", "-c", '. ./env && printf %s "$WITH_BLANKS" && test -n "$PREFECT_API_URL"']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env={})
    assert done.stdout == "it's a 'test' $HOME"
    assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_root_s_database_lies_where_its_user_gets_to(tmp_path: Path, local_stack: LocalStack):
    tmp_path.chmod(0o700)
    closed, opened = LocalStack(tmp_path / "service"), local_stack
    if opened.places.cluster is None or closed.places.cluster is None:
        pytest.skip("PostgreSQL is not installed")
    assert opened.places.cluster.data == opened.folder / "postgres"
    assert closed.places.cluster.data.parent == Path("/var/tmp")
    assert any("it keeps its files in /var/tmp/" in warning for warning in stack._warnings(closed))
    assert opened.places.user("postgres") not in (None, "root")


def test_a_cluster_that_somebody_else_put_there_is_refused(tmp_path: Path):
    """As in /var/tmp, where everybody can; nor is the password written into a file that was there before."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/initdb").symlink_to("/bin/false")
    cluster = postgres.Cluster(tmp_path / "bin", tmp_path / "postgres", None)
    other = tmp_path / "other"
    other.write_text("mine")
    cluster.data.with_suffix(".password").symlink_to(other)
    with pytest.raises(StackError):
        cluster.make("secret")
    assert other.read_text() == "mine"
    assert not cluster.data.with_suffix(".password").exists()
    cluster.data.mkdir()
    cluster.make("secret")  # ours
    if os.geteuid() == 0:
        os.chown(cluster.data, 12345, 12345)
        with pytest.raises(StackError, match="belongs to another user"):
            cluster.make("secret")


# --- processes


def test_a_process_is_known_by_more_than_its_id(tmp_path: Path, mark: str):
    process = start(SLEEP, mark, tmp_path)
    process.write(tmp_path / "pid")
    assert Process.read(tmp_path / "pid") == process
    known = json.loads((tmp_path / "pid").read_text())
    for foreign in ({"started": known["started"] - 1}, {"boot": "another"}, {"pid": os.getpid()}):
        (tmp_path / "pid").write_text(json.dumps(known | foreign))
        assert Process.read(tmp_path / "pid") is None
    Process(process.pid, process.started - 1, process.boot, process.parent).send(signal.SIGKILL)
    assert process.runs


def test_a_service_started_by_a_script_in_the_background_can_be_interrupted(tmp_path: Path, mark: str):
    reported = [sys.executable, "-c", "import signal, time; print(signal.getsignal(2), flush=True); time.sleep(60)"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what runs in its background
    try:
        process = start(reported, mark, tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert processes.wait_for(lambda: (tmp_path / "log").read_text() != "", 20)
    assert "default_int_handler" in (tmp_path / "log").read_text()
    process.send(signal.SIGINT)
    assert processes.wait_for(lambda: not process.runs, 20)


def test_all_that_a_service_started_is_found_and_ended(tmp_path: Path, mark: str):
    parent = start([sys.executable, "-c", SLEEPING_CHILD], mark, tmp_path)
    assert processes.wait_for(lambda: len(processes.marked(mark)) == 2, 10)
    assert processes.roots(processes.marked(mark)) == [parent]
    parent.send(signal.SIGKILL)
    assert processes.wait_for(lambda: not parent.runs, 10)
    (orphan,) = processes.marked(mark)
    assert processes.end(lambda: processes.marked(mark), signal.SIGTERM, 10)
    assert not orphan.runs


def test_what_does_not_listen_is_not_waited_for_without_end(tmp_path: Path, mark: str):
    deaf = start([sys.executable, "-c", DEAF], mark, tmp_path)
    assert processes.wait_for(lambda: "deaf" in (tmp_path / "log").read_text(), 10)
    assert not processes.end(lambda: processes.marked(mark), signal.SIGTERM, 0.5)
    assert deaf.runs
    assert processes.end(lambda: processes.marked(mark), signal.SIGKILL, 10)


def test_a_program_that_is_not_there_is_one_clear_line(tmp_path: Path):
    with pytest.raises(StackError, match="no-such-program: cannot be started: "):
        start(["no-such-program"], "mark", tmp_path)


def test_a_service_that_ends_at_once_says_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    local = LocalStack(tmp_path / "service")
    command = [sys.executable, "-c", "import time; print('the port is cursed'); time.sleep(0.3)"]
    monkeypatch.setattr(local.places, "command", lambda name: command)
    with pytest.raises(StackError, match=r"server ended before it was ready: the port is cursed \(see .*server.log\)"):
        local.start(["server"])
    assert local.pid("server") is None


def test_nothing_to_stop(tmp_path: Path):
    assert not LocalStack(tmp_path / "never").stop()
    assert not (tmp_path / "never").exists()


# --- the command line


def test_status_and_stop_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(stack, "FOLDER", tmp_path / ".service")
    assert stack.main(["status"]) == 1
    assert stack.main(["stop"]) == 0
    assert capsys.readouterr().out.splitlines() == ["start it with 'zssmnet-service start'", "nothing was running"]


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(stack, "FOLDER", tmp_path)
    (tmp_path / "state.json").write_text("{")
    assert stack.main(["start"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zssmnet: error: {tmp_path}/state.json: cannot be read: ")


# --- for real


def answer(local: LocalStack, path: str, auth: str | None = None) -> int:
    headers = {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"} if auth else {}
    request = urllib.request.Request(f"{local.environment['PREFECT_API_URL']}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except HTTPError as error:
        with error:
            return error.code


def variable(local: LocalStack, *command: str) -> str:
    prefect = [str(Path(sys.executable).with_name("prefect")), "variable", *command]
    done = subprocess.run(prefect, env=os.environ | local.environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.integration
@pytest.mark.long
def test_the_server_keeps_its_database_and_leaves_no_process(local_stack: LocalStack):
    local = local_stack
    if local.places.cluster is None:
        pytest.skip("PostgreSQL is not installed")
    services = ["postgres", "s3", "server"]
    assert local.start(services)
    assert local.services()[:3] == services
    assert answer(local, "/health") == 200
    assert answer(local, "/admin/version") == 401
    assert answer(local, "/admin/version", local.environment["PREFECT_API_AUTH_STRING"]) == 200
    assert (local.folder / "env").exists()

    pids = [local.pid(name) for name in services]
    assert None not in pids
    assert not local.start(services)
    assert [local.pid(name) for name in services] == pids

    variable(local, "set", "kept", "yes")
    kill(local, "server")
    assert local.pid("server") is None
    assert local.stop()
    assert not local.stop()
    for name in services:
        assert local.pid(name) is None
        assert processes.marked(f"{local.folder}:{name}") == []

    assert local.start(["postgres", "server"])
    assert "yes" in variable(local, "get", "kept")
