import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zssmnet.storage.storage_contract import StorageContract, keys
from zssmnet.errors import InputError, StorageError, UnreadableFileError
from zssmnet.storage import LocalStorage, Storage, open_storage, read_file, sha256_of
from zssmnet.storage.local import ABANDONED_S, GUARD_S, PARTIAL
from zssmnet.storage.process_id import this_process

WRITE_AND_WAIT = """
import sys
from zssmnet.storage import LocalStorage
with LocalStorage(sys.argv[1]).publishing("file") as path:
    path.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
"""


class TestLocalStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@contextmanager
def another_process_writing(root: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may do everything, so give the right up for a moment."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def workplaces(root: Path) -> list[str]:
    return sorted(path.name for path in (root / PARTIAL).glob("*"))


class TestSweep:
    def test_removes_what_a_killed_process_left(self, root: Path):
        storage = LocalStorage(root)
        with another_process_writing(root) as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert len(workplaces(root)) == 1
            assert storage.list() == []
            storage.sweep()
            assert not (root / PARTIAL).exists()

    def test_spares_what_a_living_process_writes(self, root: Path):
        storage = LocalStorage(root)
        with another_process_writing(root) as process:
            storage.sweep()
            assert len(workplaces(root)) == 1
            process.communicate("", timeout=30)
        assert storage.read("file") == b"half"

    def test_removes_what_an_earlier_process_of_the_same_number_left(self, root: Path):
        """As in a container that is started again."""
        left = root / PARTIAL / f"{replace(this_process(), run='0123abcd')}-0"
        left.mkdir(parents=True)
        (left / "file").write_bytes(b"half")
        LocalStorage(root).publish_bytes("file", b"whole")
        LocalStorage(root).sweep()
        assert workplaces(root) == []

    def test_spares_other_hosts_and_strangers(self, root: Path):
        """Of other hosts it cannot be known whether they live; other names were not made here."""
        host = socket.gethostname()
        others = [
            f"{replace(this_process(), host='elsewhere', process=999_999_999)}-0",
            f"{replace(this_process(), place='0123abcd', process=999_999_999)}-0",
            "x",
            f"{host}-0123abcd-x-0123abcd-0",
            f"{host}-0123abcd-{'9' * 30}-0123abcd-0",
            "a-b-c",
            "-",
        ]
        for name in others:
            (root / PARTIAL / name).mkdir(parents=True)
        (root / PARTIAL / f"{host}-file").write_bytes(b"")
        LocalStorage(root).sweep()
        assert workplaces(root) == sorted([*others, f"{host}-file"])

    def test_removes_what_nobody_has_touched_for_a_day_wherever_it_came_from(self, root: Path):
        left = root / PARTIAL / f"{replace(this_process(), host='elsewhere')}-0"
        left.mkdir(parents=True)
        (left / "file").write_bytes(b"half")
        long_ago = time.time() - ABANDONED_S - 1
        os.utime(left, (long_ago, long_ago))
        LocalStorage(root).sweep()
        assert workplaces(root) == [left.name]
        os.utime(left / "file", (long_ago, long_ago))
        LocalStorage(root).sweep()
        assert workplaces(root) == []

    def test_leaves_no_trace_of_itself(self, root: Path):
        LocalStorage(root).publish_bytes("file", b"")
        LocalStorage(root).sweep()
        assert [path.name for path in root.iterdir()] == ["file"]


class TestList:
    def test_follows_links_to_folders_but_not_in_circles(self, root: Path, tmp_path: Path):
        (tmp_path / "elsewhere/10001").mkdir(parents=True)
        (tmp_path / "elsewhere/10001/image").write_bytes(b"x")
        root.mkdir()
        (root / "linked").symlink_to(tmp_path / "elsewhere/10001")
        (root / "circle").symlink_to(root)
        assert keys(LocalStorage(root)) == ["linked/image"]
        assert keys(LocalStorage(root / "circle")) == ["linked/image"]

    def test_leaves_out_links_that_lead_nowhere(self, root: Path):
        root.mkdir()
        (root / "nowhere").symlink_to(root / "missing")
        (root / "itself").symlink_to(root / "itself")
        (root / "file").symlink_to("/dev/null")
        (root / "good").write_bytes(b"")
        assert keys(LocalStorage(root)) == ["good"]
        assert LocalStorage(root).stat("itself") is None

    def test_shows_names_that_no_key_may_have(self, root: Path):
        root.mkdir()
        (root / "two\nlines").write_bytes(b"")
        (root / os.fsdecode(b"\xff")).write_bytes(b"")
        assert keys(LocalStorage(root)) == ["two\nlines", "\udcff"]

    def test_of_a_file_is_empty(self, root: Path):
        root.write_bytes(b"")
        assert LocalStorage(root).list() == []


class TestErrors:
    def test_a_file_where_a_folder_should_be(self, root: Path):
        LocalStorage(root).publish_bytes("file", b"x")
        for storage, key in ((LocalStorage(root), "file/below"), (LocalStorage(root / "file"), "below")):
            with pytest.raises(StorageError, match="cannot be written") as caught:
                storage.publish_bytes(key, b"")
            assert "\n" not in str(caught.value)
        assert LocalStorage(root).read("file") == b"x"

    def test_a_file_where_half_written_files_should_be(self, root: Path):
        root.mkdir()
        (root / PARTIAL).write_bytes(b"")
        with pytest.raises(StorageError, match="cannot be written"):
            LocalStorage(root).publish_bytes("file", b"")

    def test_a_folder_where_a_file_should_be(self, root: Path):
        LocalStorage(root).publish_bytes("folder/file", b"")
        with pytest.raises(StorageError, match="folder: cannot be written"):
            LocalStorage(root).publish_bytes("folder", b"")
        with pytest.raises(StorageError, match="folder: cannot be removed"):
            LocalStorage(root).remove("folder")
        assert keys(LocalStorage(root)) == ["folder/file"]

    def test_a_full_disk_publishes_nothing(self, root: Path):
        storage = LocalStorage(root)
        storage.publish_bytes("file", b"old")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(StorageError, match="file: cannot be written: File too large"):
                storage.publish_bytes("file", bytes(10_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert storage.read("file") == b"old"
        assert [path.name for path in root.iterdir()] == ["file"]

    def test_a_folder_that_may_only_be_read(self, public_folder: Path):
        storage = LocalStorage(public_folder)
        storage.publish_bytes("file", b"x")
        public_folder.chmod(0o555)
        with as_nobody():
            assert storage.read("file") == b"x"
            with pytest.raises(StorageError, match="new: cannot be written: Permission denied"):
                storage.publish_bytes("new", b"")
            with pytest.raises(StorageError, match="file: cannot be removed: Permission denied"):
                storage.remove("file")
        public_folder.chmod(0o755)

    def test_a_folder_that_may_not_be_read(self, public_folder: Path):
        closed = public_folder / "closed"
        storage = LocalStorage(public_folder)
        storage.publish_bytes("closed/file", b"x")
        closed.chmod(0o000)
        with as_nobody():
            with pytest.raises(StorageError, match="cannot be listed: Permission denied"):
                storage.list()
            for action in (storage.stat, storage.local, storage.read):
                with pytest.raises(StorageError, match="file: cannot be read: Permission denied"):
                    action("closed/file")
        closed.chmod(0o755)

    def test_a_file_that_may_not_be_read(self, public_folder: Path):
        storage = LocalStorage(public_folder)
        storage.publish_bytes("file", b"x")
        (public_folder / "file").chmod(0o000)
        with as_nobody():
            with pytest.raises(StorageError, match="file: cannot be read: Permission denied"):
                storage.read("file")
            with pytest.raises(UnreadableFileError, match="file: cannot be read: Permission denied"):
                sha256_of(public_folder / "file")

    @pytest.mark.parametrize(
        "address", ["ftp://host/folder", "s3:/bucket/root", "s3:bucket", "S3:/bucket", "file:/folder", "file:///folder"]
    )
    def test_other_addresses_are_refused(self, address: str):
        with pytest.raises(InputError, match=f"^{address}: only local folders and s3://bucket/prefix can be used$"):
            open_storage(address)

    @pytest.mark.parametrize("address", [None, 3, b"/folder", ["folder"], np.zeros((3, 3, 3))])
    def test_what_is_no_address_is_refused(self, address: Any):
        with pytest.raises(InputError, match=r"^[^\n]{,80}: is no address; name a local folder or file, or s3:"):
            open_storage(address)


NAMES_UNDER_ASCII = r"""
import sys
from pathlib import Path
from zssmnet.errors import InputError
from zssmnet.storage import open_storage, read_file

for action in (
    lambda: open_storage(sys.argv[1]),
    lambda: open_storage(Path("Pr\u00fcfung")),
    lambda: open_storage("s3://bucket/Pr\u00fcfung"),
    lambda: read_file("Pr\u00fcfung/file"),
    lambda: open_storage(".").read("Pr\u00fcfung"),
):
    try:
        action()
    except InputError as error:
        print(error, file=sys.stderr)
"""


def test_names_that_the_locale_cannot_encode_are_refused_with_the_way_out():
    """As under cron with Python's coercion off; an address comes as bytes on the command line, or as text."""
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", NAMES_UNDER_ASCII, "Prüfung"]
    done = subprocess.run(command, env=os.environ | ascii_only, capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 5
    way_out = "is not in this locale's encoding, ascii; set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8"
    assert [line for line in lines if not line.endswith(way_out)] == []
    utf8 = {"LC_ALL": "C", "PYTHONUTF8": "1"}
    done = subprocess.run(command, env=os.environ | utf8, capture_output=True, text=True, check=False)
    assert "locale" not in done.stderr


def test_after_a_power_cut_no_name_is_there_without_its_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Content before name, and the name before whatever is published next; new folders' own names as well."""
    done: list[str] = []
    flush, replace = os.fsync, Path.replace

    def noted_flush(file: int) -> None:
        flush(file)
        done.append(f"flush {Path(f'/proc/self/fd/{file}').resolve().name}")

    def noted_replace(path: Path, target: Path) -> Path:
        done.append(f"name {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(Path, "replace", noted_replace)
    storage = LocalStorage(root / "new" / "data")
    storage.publish_bytes("subset0/file", b"x")
    assert done[:6] == ["flush file", "name file", "flush subset0", "flush data", "flush new", f"flush {root.name}"]
    done.clear()
    storage.publish_bytes("subset0/other", b"x")
    storage.remove("subset0/file")
    assert done == ["flush other", "name other", "flush subset0", "flush subset0"]


def test_told_to_end_while_it_clears_away_nothing_is_left(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The signal comes once; `shutil.rmtree` may be what it interrupts."""
    removed, reported = shutil.rmtree, []

    def interrupted(folder: Path, ignore_errors: bool) -> None:
        if not reported:
            reported.append(folder)
            raise KeyboardInterrupt
        removed(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt), LocalStorage(root).publishing("file") as path:
        path.write_bytes(b"whole")
    assert reported
    assert [file.relative_to(root).as_posix() for file in root.rglob("*")] == ["file"]


def test_many_threads_leave_no_trace(root: Path):
    """Each publication removes the folder of half-written files if it is empty, while others need it."""
    storage = LocalStorage(root)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.publish_bytes(f"{number}", b""), range(400)))
    assert len(list(root.iterdir())) == 400


def test_another_thread_removes_the_folder_in_the_same_moment(root: Path, monkeypatch: pytest.MonkeyPatch):
    """First it is there already, then it is not there any more."""
    make, refusals = os.mkdir, [FileExistsError(17, "File exists"), FileNotFoundError(2, "No such file or directory")]

    def mkdir(path: Path, mode: int = 0o777) -> None:
        if Path(path).name == PARTIAL and refusals:
            raise refusals.pop(0)
        make(path, mode)

    monkeypatch.setattr(os, "mkdir", mkdir)
    LocalStorage(root).publish_bytes("file", b"x")
    assert not refusals
    assert LocalStorage(root).read("file") == b"x"


@pytest.mark.parametrize(("age_s", "is_replaced"), [(0, False), (GUARD_S + 1, True)])
def test_an_exchange_that_was_killed_between_its_steps_is_finished_by_another(
    root: Path, age_s: float, is_replaced: bool, monkeypatch: pytest.MonkeyPatch
):
    """What it left is not distinguished from a living one before some time has passed."""
    storage = LocalStorage(root)
    version = storage.exchange("file", b"old", None)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", raise_keyboard_interrupt)
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            storage.exchange("file", b"killed", version)
    (guard,) = root.glob(f"{PARTIAL}/exchange/*")
    now = time.time()
    os.utime(guard, (now - age_s, now - age_s))
    assert bool(storage.exchange("file", b"new", version)) == is_replaced
    assert storage.read("file") == (b"new" if is_replaced else b"old")
    assert (root / PARTIAL).exists() != is_replaced


def raise_keyboard_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_version_changes_though_size_time_and_inode_do_not(root: Path):
    storage = LocalStorage(root)
    storage.publish_bytes("file", b"one")
    before, found = storage.stat("file"), (root / "file").stat()
    (root / "file").write_bytes(b"two")
    os.utime(root / "file", ns=(found.st_atime_ns, found.st_mtime_ns))
    after = (root / "file").stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (found.st_size, found.st_mtime_ns, found.st_ino)
    assert storage.stat("file").version != before.version


def test_version_tells_files_apart_that_were_written_in_the_same_moment(root: Path):
    versions = set()
    for content in (b"one", b"two"):
        LocalStorage(root).publish_bytes("file", content)
        os.utime(root / "file", ns=(1, 1))
        versions.add(LocalStorage(root).list()[0].version)
    assert len(versions) == 2


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for address in ("~/archive", Path("~/archive")):
        assert open_storage(address).uri == str(tmp_path / "archive")
    with pytest.raises(InputError, match="the home ~nobody-of-this-name is not known; name the whole path"):
        open_storage("~nobody-of-this-name/x")


def test_read_file_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "splits.json").write_bytes(b"[]")
    monkeypatch.chdir(tmp_path)
    for uri in ("splits.json", "./splits.json", str(tmp_path / "splits.json")):
        assert read_file(uri) == b"[]"
    monkeypatch.setenv("HOME", str(tmp_path))
    for uri in ("~/splits.json", Path("~/splits.json"), Path("splits.json"), tmp_path / "splits.json"):
        assert read_file(uri) == b"[]"
    for uri in ("missing.json", "/missing.json", "folder/missing.json"):
        with pytest.raises(StorageError, match="no such file"):
            read_file(uri)
    with pytest.raises(InputError, match=r"^s3://bucket/?: names a bucket, but no file"):
        read_file("s3://bucket/")


def test_sha256(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
