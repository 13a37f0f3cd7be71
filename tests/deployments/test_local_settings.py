"""What the local stack is started with: commands, settings, ports, passwords, and supervisor's configuration."""

import json
import os
import socket
import stat
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest

from deployments import local_settings
from deployments.compose import read_compose, substitute
from deployments.local_settings import LocalSettings, StackError

DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
OF_CONTAINERS = ("--no-services", "--with-healthcheck")


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that names nothing."""
    for name in [one for one in os.environ if one.startswith(("AWS_", "ZSSMNET_", "CUDA_", "PREFECT_"))]:
        monkeypatch.delenv(name)


def prepared(folder: Path, overrides: dict[str, str] | None = None, port: int | None = None) -> LocalSettings:
    settings = LocalSettings(folder, overrides or {})
    folder.mkdir(exist_ok=True)
    settings.prepare(port, 0o022)
    return settings


def configuration(folder: Path) -> RawConfigParser:
    parser = RawConfigParser()
    parser.read(folder / "supervisord.conf")
    return parser


# --- commands and settings


@pytest.mark.parametrize("name", ["server", "setup", "cpu-worker", "gpu-worker"])
def test_commands_are_those_of_the_compose_file(name: str, tmp_path: Path):
    """But for two words: background services run within the server, and supervisor watches the workers."""
    program, *words = (substitute(word, {}) for word in read_compose()["services"][name]["command"])
    module = [] if program == "python" else ["-P", "-m", program]
    wanted = [sys.executable, *module, *(word for word in words if word not in OF_CONTAINERS)]
    assert LocalSettings(tmp_path, {}).command(name) == wanted
    assert ("--no-services" in words) == (name == "server")


def test_settings_are_those_of_the_compose_file_but_for_places(tmp_path: Path):
    compose = read_compose()["services"]["cpu-worker"]["environment"]
    given = prepared(tmp_path).clients()
    for name in ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_RESULTS_PERSIST_BY_DEFAULT", "DO_NOT_TRACK"):
        assert given[name] == compose[name]
    of_workers = {"PREFECT_WORKER_WEBSERVER_PORT", "ZSSMNET_CACHE_GB", "GOMP_SPINCOUNT"}
    from_the_shell = {name for name, value in compose.items() if value is None}
    of_s3 = {name for name in compose if name.startswith("AWS_")} | {"ZSSMNET_BUCKET"}
    of_s3 |= {"PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"}
    assert set(compose) - set(given) == of_workers | from_the_shell | of_s3
    assert {name for name in given if given[name] != compose.get(name)} == {
        *("PREFECT_API_URL", "PREFECT_UI_URL", "PREFECT_API_AUTH_STRING", "PREFECT_LOCAL_STORAGE_PATH")
    }
    assert of_workers <= set(prepared(tmp_path).environment())


def test_the_server_deletes_old_runs_as_in_the_compose_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    period = "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD"
    environment = prepared(tmp_path).server_environment()
    assert environment["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == "events,flow_runs"
    assert int(environment[period]) == 90 * 24 * 3600
    monkeypatch.setenv(period, "86400")
    assert prepared(tmp_path).server_environment()[period] == "86400"


def test_nothing_leads_to_redis(tmp_path: Path):
    environment = prepared(tmp_path).server_environment()
    assert not [name for name, value in environment.items() if "redis:" in value or "prefect_redis" in value]


def test_settings_of_another_server_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    monkeypatch.setenv("PREFECT_API_KEY", "foreign")
    settings = prepared(tmp_path, {"PREFECT_WORKER_QUERY_SECONDS": "1"})
    environment = settings.environment()
    assert environment["PREFECT_API_URL"] == f"{settings.address}/api"
    assert "PREFECT_API_KEY" not in environment
    assert environment["PREFECT_WORKER_QUERY_SECONDS"] == "1"


# --- GPUs


@pytest.mark.parametrize("devices", [None, "2,3"])
def test_one_training_sees_all_gpus_and_runs_of_the_pool_cpu_none(
    devices: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Those that the shell names, or all: as with compose."""
    monkeypatch.setattr(local_settings, "gpus_of_this_machine", lambda: ["0", "1", "2", "3"])
    if devices:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    settings = prepared(tmp_path)
    assert settings.workers() == {"cpu-worker": {"CUDA_VISIBLE_DEVICES": ""}, "gpu-worker": {}}
    assert settings.environment().get("CUDA_VISIBLE_DEVICES") == devices


def test_several_workers_share_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local_settings, "gpus_of_this_machine", lambda: ["0", "1", "2"])
    monkeypatch.setenv("ZSSMNET_GPU_WORKERS", "3")
    settings = prepared(tmp_path)
    workers = [name for name in settings.workers() if name != "cpu-worker"]
    assert [settings.workers()[name]["CUDA_VISIBLE_DEVICES"] for name in workers] == ["0", "1", "2"]
    assert [settings.command(name)[9] for name in workers] == ["gpu0", "gpu1", "gpu2"]
    monkeypatch.setenv("ZSSMNET_GPU_WORKERS", "2")
    shares = [one["CUDA_VISIBLE_DEVICES"] for one in settings.workers().values()]
    assert shares == ["", "0", "1,2"]
    assert "program:gpu-worker-2" in configuration(tmp_path)


@pytest.mark.parametrize("number", ["0", "4", "many", "-1"])
def test_a_number_of_workers_that_cannot_be_is_one_line(number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local_settings, "gpus_of_this_machine", lambda: ["0", "1", "2"])
    monkeypatch.setenv("ZSSMNET_GPU_WORKERS", number)
    with pytest.raises(StackError, match=f"ZSSMNET_GPU_WORKERS is {number}: set 1 to 3, the number of GPUs"):
        prepared(tmp_path)


# --- storage and database


def test_results_go_to_a_folder_or_to_the_s3_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = prepared(tmp_path)
    assert settings.clients()["PREFECT_LOCAL_STORAGE_PATH"] == str(tmp_path / "results")
    assert not [name for name in settings.environment() if name.startswith("AWS_")]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.org")
    with pytest.raises(StackError, match="AWS_ACCESS_KEY_ID is not: set it, too"):
        settings.clients()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    given = settings.clients()
    assert "PREFECT_LOCAL_STORAGE_PATH" not in given
    assert {name: given[name] for name in given if name.startswith("AWS_")} == {
        "AWS_ENDPOINT_URL": "https://s3.example.org",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    assert given["ZSSMNET_BUCKET"] == "zssmnet"
    assert given["PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"] == "remote-file-system/zssmnet-results"


def test_a_bucket_alone_is_amazons_with_the_keys_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ZSSMNET_BUCKET", "ours")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    given = prepared(tmp_path).clients()
    assert (given["ZSSMNET_BUCKET"], given["AWS_PROFILE"]) == ("ours", "lab")
    assert "AWS_ACCESS_KEY_ID" not in given


def test_the_database_is_sqlite_or_the_one_that_was_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And runs do not get its password."""
    sqlite = prepared(tmp_path / "a").server_environment()
    assert sqlite["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == f"sqlite+aiosqlite:///{tmp_path}/a/prefect.db"
    url = "postgresql+asyncpg://prefect:pass%20word@db:5432/prefect"
    monkeypatch.setenv(DATABASE, url)
    settings = prepared(tmp_path / "b")
    assert url not in settings.environment().values()
    monkeypatch.delenv(DATABASE)
    again = prepared(tmp_path / "b")
    named = {name: value for name, value in again.server_environment().items() if "_DATABASE_" in name}
    assert named == {DATABASE: url}
    assert f'{DATABASE}="{url.replace("%", "%%")}"' in configuration(tmp_path / "b")["program:server"]["environment"]


def test_what_supervisor_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(DATABASE, 'postgresql+asyncpg://a:"@db/prefect')
    with pytest.raises(StackError, match=f"^{DATABASE}: contains a quote"):
        prepared(tmp_path)


# --- files


def test_what_is_drawn_is_kept_and_hidden(tmp_path: Path):
    folder = tmp_path / "service"
    first = prepared(folder)
    assert LocalSettings(folder, {}).clients() == first.clients()
    other = prepared(tmp_path / "other")
    assert other.state.passwords != first.state.passwords
    assert other.state.mark != first.state.mark
    for name in ("state.json", "env", "supervisord.conf"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_state_of_an_earlier_version_is_read(tmp_path: Path):
    (tmp_path / "state.json").write_text(
        json.dumps({"ports": {"server": 4242, "s3": 1}, "passwords": {"api": "kept", "database": "b", "s3": "c"}})
    )
    settings = prepared(tmp_path)
    assert settings.clients()["PREFECT_API_AUTH_STRING"] == "zssmnet:kept"
    assert settings.address == "http://127.0.0.1:4242"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"passwords": {}}', '{"passwords": {"api": 1}}', "\0"])
def test_an_odd_state_is_one_line(text: str, tmp_path: Path):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(StackError, match=r"state.json: cannot be read: .*; move it away") as caught:
        LocalSettings(tmp_path, {})
    assert "\n" not in str(caught.value)


def test_a_port_that_is_taken_is_replaced_and_reported(tmp_path: Path):
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        taken = foreign.getsockname()[1]
        settings = LocalSettings(tmp_path, {})
        (note,) = settings.prepare(taken, 0o022)
        (port,) = settings.state.ports.values()
        assert port != taken
        assert note == f"port {taken} is taken by another program: the server listens on {port} from now on"
        assert LocalSettings(tmp_path, {}).prepare(taken, 0o022) == []
    assert LocalSettings(tmp_path, {}).state.ports == {"server": port}


def test_a_stack_that_was_moved_keeps_its_state_and_says_so(tmp_path: Path):
    first = prepared(tmp_path / "old")
    moved = tmp_path / "new"
    (tmp_path / "old").rename(moved)
    settings = LocalSettings(moved, {})
    (note,) = settings.prepare(None, 0o022)
    assert note.startswith(f"the service was moved here from {tmp_path}/old: ")
    assert settings.state.passwords == first.state.passwords
    assert str(moved / "prefect.db") in settings.server_environment()["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert "old" not in (moved / "supervisord.conf").read_text().replace(str(tmp_path), "")


def test_the_environment_can_be_read_by_a_shell(tmp_path: Path):
    prepared(tmp_path, {"WITH_BLANKS": "it's a 'test' $HOME"})
    command = ["sh", "-c", '. ./env && printf %s "$WITH_BLANKS" && test -n "$PREFECT_API_URL"']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env={})
    assert done.stdout == "it's a 'test' $HOME"


def test_what_dies_is_restarted_and_logs_are_rotated(tmp_path: Path):
    prepared(tmp_path)
    programs = configuration(tmp_path)
    names = [name for name in programs.sections() if name.startswith("program:")]
    assert names == ["program:server", "program:cpu-worker", "program:gpu-worker"]
    for name in names:
        assert programs[name]["autorestart"] == "true"
        assert programs[name]["stdout_logfile_maxbytes"] == "10MB"
        assert programs[name]["umask"] == ("077" if name == "program:server" else "022")
    assert programs["supervisord"]["umask"] == "077"
    password = json.loads((tmp_path / "state.json").read_text())["passwords"]["api"]
    assert password in programs["program:server"]["environment"]
    assert not any(password in programs[name]["command"] for name in names)
