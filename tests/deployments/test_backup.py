"""Backup and restore of the service on one machine."""

import os
import shutil
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from deployments import stack
from deployments.local_settings import DATABASE, STATE, StackError, State
from deployments.stack import LocalStack
from tests.deployments.stack_fixture import temporary_stack, wait_for
from tests.integration.service import PATIENCE_S, connected
from tests.phantoms import small_archive
from zssmnet.registry.versions import list_versions
from zssmnet.storage import open_storage
from zssmnet.storage.layout import Layout
from zssmnet.storage.verification import verify_root


@pytest.fixture
def service(tmp_path: Path) -> LocalStack:
    """One whose database has a table; nothing runs."""
    local = LocalStack(tmp_path / "old" / ".service")
    local.folder.mkdir(parents=True)
    (local.folder / STATE).write_text(State(passwords={"api": "secret"}, ports={"server": 4567}).model_dump_json())
    with sqlite3.connect(local.folder / DATABASE) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE runs (number INTEGER)")
        database.executemany("INSERT INTO runs VALUES (?)", [(one,) for one in range(1000)])
    database.close()
    return local


def numbers(folder: Path) -> list[int]:
    with sqlite3.connect(folder / DATABASE) as database:
        return [number for (number,) in database.execute("SELECT number FROM runs ORDER BY number")]


def test_a_backup_has_database_and_password_and_is_its_owner_s(service: LocalStack, tmp_path: Path):
    file = tmp_path / "backup.zip"
    service.back_up(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = LocalStack(tmp_path / "new" / ".service")
    other.restore(file)
    assert numbers(other.folder) == list(range(1000))
    old, new = service.settings.state, other.settings.state
    assert (new.passwords, new.ports) == (old.passwords, old.ports)
    assert new.mark != old.mark  # the old one may run on, and is not to be stopped with the new one
    places = [other.folder, *other.folder.rglob("*")]
    assert not [one for one in places if stat.S_IMODE(one.stat().st_mode) & 0o077]
    assert not [one for one in [*places, *tmp_path.iterdir()] if "partial" in one.name or "restore-" in one.name]


def test_a_backup_is_one_state_of_a_database_that_is_written(service: LocalStack, tmp_path: Path):
    """A thread adds rows by pairs: no backup has half a pair."""
    ended = threading.Event()

    def write() -> None:
        with sqlite3.connect(service.folder / DATABASE, timeout=60) as database:
            for number in range(1000, 1_000_000, 2):
                if ended.is_set():
                    return
                database.executemany("INSERT INTO runs VALUES (?)", [(number,), (number + 1,)])
                database.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            service.back_up(tmp_path / "backup.zip")
            other = LocalStack(tmp_path / f"new-{number}")
            other.restore(tmp_path / "backup.zip")
            found = numbers(other.folder)
            assert found == list(range(len(found)))
            assert len(found) % 2 == 0
    finally:
        ended.set()
        writer.join()


def test_a_restore_replaces_no_service(service: LocalStack, tmp_path: Path):
    service.back_up(tmp_path / "backup")
    with pytest.raises(StackError, match="there is a service already; stop it and move the folder away"):
        service.restore(tmp_path / "backup")
    (service.folder / STATE).unlink()  # its database is left
    with pytest.raises(StackError, match="there is a service already"):
        service.restore(tmp_path / "backup")


def broken(service: LocalStack, file: Path) -> Iterator[None]:
    """Ways in which a backup may be none."""
    service.back_up(file)
    whole = file.read_bytes()
    file.unlink()
    yield
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 20):
        file.write_bytes(whole[:length])
        yield
    file.write_bytes(b"no archive at all" * 100)
    yield
    with ZipFile(file, "w") as archive:
        archive.write(service.folder / STATE, STATE)
    yield
    (file.parent / "odd").write_bytes(b"x" * 5000)
    with ZipFile(file, "w") as archive:
        archive.write(file.parent / "odd", DATABASE)
        archive.write(service.folder / STATE, STATE)
    yield
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    file.write_bytes(changed)
    yield
    file.unlink()
    file.mkdir()
    yield


def test_what_is_no_backup_is_one_line_and_leaves_nothing(
    service: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file, folder = tmp_path / "backup", tmp_path / "new"
    monkeypatch.setattr(stack, "FOLDER", folder)
    for _ in broken(service, file):
        assert stack.main(["restore", str(file)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"zssmnet: error: {file}: ")
        assert not (folder / STATE).exists()
        assert not (folder / DATABASE).exists()


@pytest.mark.parametrize(("make", "reason"), [
    ("", "there is no service to back up"),
    ('{"passwords": {"api": "x"}, "database": {"PREFECT_API_DATABASE_CONNECTION_URL": "postgresql://h/p"}}', "pg_dump"),
    ('{"passwords": {"api": "x"}}', "prefect.db: cannot be copied: unable to open database file"),
])  # fmt: skip
def test_what_cannot_be_backed_up_is_one_line(
    make: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(stack, "FOLDER", tmp_path / ".service")
    if make:
        (tmp_path / ".service").mkdir()
        (tmp_path / ".service" / STATE).write_text(make)
    assert stack.main(["backup", str(tmp_path / "file")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not [one for one in tmp_path.iterdir() if one.name != ".service"]


def test_a_backup_that_cannot_be_written_is_one_line(service: LocalStack, tmp_path: Path):
    with pytest.raises(StackError, match=r"none/file: cannot be written: No such file or directory"):
        service.back_up(tmp_path / "none" / "file")


# --- for real


@pytest.mark.integration
@pytest.mark.long
def test_a_service_that_is_destroyed_while_it_trains_goes_on_elsewhere(tmp_path: Path):
    """Backed up while a run trains; processes killed and folder removed; restored in another; the run ends well."""
    images, masks = small_archive(tmp_path / "archive", 6)
    root, file = tmp_path / "root", tmp_path / "backup.zip"
    recipe = {"network": {"channels": [2, 2, 2, 2, 2]}, "corruption": {"shuffling": {"windows": 50}}}
    training = {"epochs": 2, "patience": 2000, "batch_size": 4, "device": "cpu"}
    parameters = {
        "images_path": str(images),
        "zonal_mask_path": str(masks),
        "root": str(root),
        "cubes": {"cubes_per_case": 2},
        "pretraining": {**recipe, "training": training},
    }
    name = "retrain-on-new-data"
    with temporary_stack(OMP_NUM_THREADS="1") as old:
        old.start()
        with connected(old) as service:
            first = service.start("ssl-pretraining", parameters)
            assert service.ended(first)[0] == "Completed", service.log(first)
            (version,) = list_versions(open_storage(Layout(str(root)).weights))
            deployment = service.client.read_deployment_by_name(f"{name}/{name}")
            service.client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=True)
            before = {one.name: one.enabled for one in service.client.read_automations()}
            parameters["pretraining"] = {**recipe, "training": {**training, "epochs": 150, "seed": 1}}
            run = service.start("ssl-pretraining", parameters)
            service.until(lambda: any(service.state(one)[0] == "Running" for one in service.children(run, "pretrain")))
            (child,) = service.children(run, "pretrain")
            service.until(lambda: "epoch 2" in service.log(child))
        old.back_up(file)
        for process in old.processes():
            os.kill(process, signal.SIGKILL)
        wait_for(lambda: not old.processes())
        shutil.rmtree(old.folder)
        with temporary_stack(OMP_NUM_THREADS="1") as new:
            new.restore(file)
            new.start()
            assert new.environment["PREFECT_API_AUTH_STRING"] == old.environment["PREFECT_API_AUTH_STRING"]
            with connected(new) as service:
                assert service.ended(first)[0] == "Completed"
                after = {one.name: one.enabled for one in service.client.read_automations()}
                assert after == before
                assert service.client.read_deployment_by_name(f"{name}/{name}").schedules[0].active
                service.until(lambda: service.state(run)[0] in ("Completed", "Failed"), 3 * PATIENCE_S)
                assert service.state(run)[0] == "Completed", service.log(run)
                assert any("continuing after epoch" in service.log(one) for one in service.children(run, "pretrain"))
            kept, _ = list_versions(open_storage(Layout(str(root)).weights))
            assert (kept.run_id, kept.outputs) == (version.run_id, version.outputs)
            assert verify_root(str(root)) == []
