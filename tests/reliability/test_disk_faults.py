"""Storage on a local disk that is full, read-only or in the way, and a local cache on such a disk."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from tests.reliability.ledger import Ledger
from zssmnet.errors import StorageError
from zssmnet.storage import LocalStorage, Storage, open_storage
from zssmnet.storage.cache import Cache
from zssmnet.storage.s3 import S3Storage
from zssmnet.training.tensor_files import save_tensors

AREA = "storage on a disk"
NOBODY = 65534
MEGABYTE = 2**20


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own at ``folder``; skips where none can be mounted."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """1 MB, of which nearly all is taken."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        (disk / "taken").write_bytes(bytes(MEGABYTE - 64 * 1024))
        yield disk


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        LocalStorage(disk).publish_bytes("old", b"old")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield disk


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_nobody(code: str, *arguments: str) -> str:
    """What Python code prints as a user without rights, which it becomes once all is imported."""
    if os.geteuid() == 0:
        code = code.replace("try:\n", f"os.setuid({NOBODY})\ntry:\n", 1)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


PUBLISH = """
import os, sys
from zssmnet.errors import StorageError
from zssmnet.storage import open_storage
try:
    open_storage(sys.argv[1]).publish_bytes("a/file", bytes(10_000))
except StorageError as error:
    print(error)
"""


class TestFull:
    def test_publishes_nothing(self, full_disk: Path, ledger: Ledger) -> None:
        storage = LocalStorage(full_disk)
        storage.publish_bytes("old", b"old")
        for name in ("old", "new"):
            with ledger.tried(AREA, "disk full"):
                line = refusal(lambda name=name: storage.publish_bytes(name, bytes(MEGABYTE)))
                assert line == (
                    f"{full_disk}/{name}: cannot be written: No space left on device: "
                    "make room there and run again; what is done is not done again"
                )
                assert sorted(path.name for path in full_disk.iterdir()) == ["old", "taken"]
                assert storage.read("old") == b"old"
        (full_disk / "taken").unlink()
        storage.publish_bytes("new", bytes(MEGABYTE // 2))
        assert storage.read("new") == bytes(MEGABYTE // 2)

    def test_without_room_for_one_more_name(self, tmp_path: Path, ledger: Ledger) -> None:
        """No inodes are left."""
        disk = tmp_path / "disk"
        with mounted(disk, "size=1m,nr_inodes=4"), ledger.tried(AREA, "no inodes"):
            storage = LocalStorage(disk)
            storage.publish_bytes("old", b"old")
            (disk / "taken").touch()
            assert "No space left on device: make room" in refusal(lambda: storage.publish_bytes("old", b"new"))
            assert storage.read("old") == b"old"

    def test_files_that_may_not_grow(self, tmp_path: Path, ledger: Ledger) -> None:
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n{PUBLISH}"
        with ledger.tried(AREA, "files may not grow (ulimit -f)"):
            done = subprocess.run(
                [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
            )
            assert done.stdout == (
                f"{tmp_path}/a/file: cannot be written: File too large: raise the limit (ulimit -f) or use another "
                "file system\n"
            )
            assert not list(tmp_path.iterdir())


class TestReadOnly:
    def test_can_be_read_and_not_written(self, read_only_disk: Path, ledger: Ledger) -> None:
        storage = LocalStorage(read_only_disk)
        with ledger.tried(AREA, "read-only file system"):
            assert storage.read("old") == b"old"
            for action in (lambda: storage.publish_bytes("new", b""), lambda: storage.publish_bytes("old", b"new")):
                assert "Read-only file system: name a folder that can be written" in refusal(action)
            assert "cannot be removed: Read-only file system" in refusal(lambda: storage.remove("old"))
            storage.sweep()
            assert [entry.key for entry in storage.list()] == ["old"]

    def test_a_folder_of_another_user(self, ledger: Ledger) -> None:
        with tempfile.TemporaryDirectory() as folder, ledger.tried(AREA, "no permission"):
            Path(folder).chmod(0o555)
            line = as_nobody(PUBLISH, folder)
            assert line.startswith(f"{folder}/a/file: cannot be written: Permission denied: give this user the right")
            assert not list(Path(folder).iterdir())

    def test_a_path_without_permission(self, ledger: Ledger) -> None:
        with tempfile.TemporaryDirectory() as folder, ledger.tried(AREA, "no permission"):
            Path(folder).chmod(0o700)
            line = as_nobody(PUBLISH, f"{folder}/below/root")
            assert "Permission denied: give this user the right to, or name another folder" in line
            assert line.count("\n") == 1


def test_a_folder_that_is_a_file(tmp_path: Path, ledger: Ledger) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with ledger.tried(AREA, "folder is a file"):
        line = refusal(lambda: open_storage(tmp_path / "file").publish_bytes("below", b""))
        assert "cannot be written: Not a directory: a file is where a folder is needed" in line
        assert (tmp_path / "file").read_bytes() == b"content"


def test_tensors_on_a_full_disk(full_disk: Path, ledger: Ledger) -> None:
    """PyTorch itself tells of a position that it did not expect."""
    storage = LocalStorage(full_disk)
    with ledger.tried(AREA, "disk full"):

        def publish() -> None:
            with storage.publishing("model") as path:
                save_tensors({"weights": torch.zeros(MEGABYTE)}, path)

        assert "model: cannot be written: No space left on device: make room" in refusal(publish)
        assert not storage.list("model")


class TestCache:
    """The local cache of files on S3."""

    def storage(self, root: str, folder: Path) -> S3Storage:
        return S3Storage(root, Cache(folder, 10**9))

    @pytest.fixture
    def filled(self, s3_root: str) -> Storage:
        storage = open_storage(s3_root)
        storage.publish_bytes("large", bytes(MEGABYTE))
        storage.publish_bytes("small", b"small")
        return storage

    def test_full(self, filled: Storage, full_disk: Path, ledger: Ledger) -> None:
        storage = self.storage(filled.uri, full_disk / "cache")
        with ledger.tried(AREA, "local cache full"):
            for line in (
                refusal(lambda: storage.read("large")),
                refusal(lambda: storage.publish_bytes("large", bytes(MEGABYTE))),
            ):
                assert line.startswith(f"{filled.uri}/large: cannot be ")
                assert f"No space left on device, in {full_disk}/cache: make room there, or name" in line
                assert line.endswith("ZSSMNET_CACHE")
            assert not [path for path in (full_disk / "cache").rglob("*") if path.is_file()]
            assert storage.read("small") == b"small"
            (full_disk / "taken").unlink()
            with mounted_larger(full_disk):
                assert storage.read("large") == bytes(MEGABYTE)

    def test_read_only(self, filled: Storage, read_only_disk: Path, ledger: Ledger) -> None:
        storage = self.storage(filled.uri, read_only_disk / "cache")
        with ledger.tried(AREA, "local cache read-only"):
            for action in (lambda: storage.read("small"), lambda: storage.publish_bytes("small", b"new")):
                assert f"Read-only file system, in {read_only_disk}/cache" in refusal(action)
            assert filled.read("small") == b"small"

    def test_a_copy_that_another_process_removes(self, filled: Storage, tmp_path: Path, ledger: Ledger) -> None:
        storage = self.storage(filled.uri, tmp_path / "own")
        with ledger.tried(AREA, "local copy removed by another process"):
            shutil.rmtree(storage.local("small").parent)
            assert storage.read("small") == b"small"


@contextmanager
def mounted_larger(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
    yield


READ_IMAGE = """
import os, sys, tempfile
tempfile.tempdir = os.environ.get("SEEN")
from pathlib import Path
from zssmnet.errors import ZssmnetError
from zssmnet.data.image_io import read_image
try:
    read_image(Path(sys.argv[1]))
except ZssmnetError as error:
    print(error)
"""


class TestTemporaryFolder:
    @pytest.fixture
    def image(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            path = Path(folder, "image.nii.gz")
            sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(path))
            path.chmod(0o644)
            yield path

    def test_gone(self, image: Path, tmp_path: Path, ledger: Ledger) -> None:
        environment = os.environ | {"SEEN": str(tmp_path / "missing")}
        with ledger.tried(AREA, "temporary folder gone"):
            done = subprocess.run(
                [sys.executable, "-c", READ_IMAGE, str(image)], capture_output=True, text=True, env=environment
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(f"{tmp_path}/missing: cannot be written: No such file or directory")

    def test_none_that_can_be_written(self, image: Path, ledger: Ledger) -> None:
        """Python finds no temporary folder at all."""
        code = READ_IMAGE.replace(
            'tempfile.tempdir = os.environ.get("SEEN")', "tempfile._candidate_tempdir_list = lambda: ['/proc']"
        )
        with ledger.tried(AREA, "no temporary folder"):
            done = subprocess.run([sys.executable, "-c", code, str(image)], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith("the folder for temporary files: cannot be written: No usable temporary")
            assert "name a folder in TMPDIR" in done.stdout
            assert done.stdout.count("\n") == 1
