"""Whole runs whose storage fails: among faults they end right; where nothing helps, in one line, and later right."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3fs

from flows import cli
from tests.reliability import faulty_s3
from tests.reliability.faulty_s3 import Fault, FaultyS3, Rule, faulty_proxy, refused
from tests.reliability.killing import assert_whole, digests
from tests.reliability.ledger import Ledger
from tests.reliability.undisturbed import Undisturbed

pytestmark = pytest.mark.integration

FAULTS: dict[str, Fault] = {
    "answers 500": refused(500, "InternalError"),
    "answers 503, slow down": refused(503, "SlowDown"),
    "answers 429": refused(429, "TooManyRequests"),
    "connection reset": faulty_s3.reset,
    "answer lost": faulty_s3.answer_lost,
    "answer cut off": faulty_s3.cut_off,
    "right length, other bytes": faulty_s3.other_bytes,
}
CHANCE = 0.08


def run(words: list[str]) -> int:
    """The command in this process; its exit status."""
    with pytest.raises(SystemExit) as exit:
        cli.main(words)
    return int(exit.value.code or 0)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that tells the error, the last one."""
    text = capsys.readouterr().err
    assert "Traceback" not in text, text
    lines = [line for line in text.splitlines() if line.startswith("zssmnet: error: ")]
    assert len(lines) == 1, text
    return lines[0]


class TestS3:
    @pytest.fixture
    def bucket(self, s3_endpoint: str) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(use_listings_cache=False, endpoint_url=s3_endpoint, skip_instance_cache=True)

    @pytest.fixture
    def place(self, undisturbed: Undisturbed, s3_root: str, bucket: s3fs.S3FileSystem) -> str:
        """The archive on S3."""
        for name in ("nnunet_raw", "zonal_masks"):
            bucket.put(f"{undisturbed.folder / name}/", f"{s3_root}/archive/{name}/", recursive=True)
        return f"{s3_root}/archive"

    @pytest.fixture
    def proxy(self, place: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
        with faulty_proxy(s3_endpoint) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
            yield proxy

    def files(self, bucket: s3fs.S3FileSystem, root: str, to: Path) -> dict[str, str]:
        bucket.get(f"{root}/", f"{to}/", recursive=True)
        return digests(str(to))

    def written(self, bucket: s3fs.S3FileSystem, root: str) -> dict[str, object]:
        """When each object was written."""
        return {key: found["LastModified"] for key, found in bucket.find(root, detail=True).items()}

    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 6))])
    def test_among_faults_the_files_are_the_same(
        self,
        seed: int,
        undisturbed: Undisturbed,
        s3_root: str,
        place: str,
        proxy: FaultyS3,
        bucket: s3fs.S3FileSystem,
        tmp_path: Path,
        ledger: Ledger,
        long: bool,
    ) -> None:
        proxy.rules += [
            Rule(fault, ("GET",) if number >= 5 else (), chance=CHANCE / len(FAULTS), seed=100 * seed + number)
            for number, fault in enumerate(FAULTS.values())
        ]
        with ledger.tried("whole run on S3", "6 to 8 % of all requests fail"):
            assert run(undisturbed.words(f"{s3_root}/root", place)) == 0
            assert proxy.faults > 5
            assert self.files(bucket, f"{s3_root}/root", tmp_path / "root") == undisturbed.files
            if long:
                before = self.written(bucket, s3_root)
                assert run(undisturbed.words(f"{s3_root}/root", place)) == 0
                assert self.written(bucket, s3_root) == before
        ledger.measured("whole run on S3, 6 to 8 % of all requests fail", "requests", str(proxy.requests.count()))
        ledger.measured("whole run on S3, 6 to 8 % of all requests fail", "faults", str(proxy.faults))

    @pytest.mark.parametrize(
        ("name", "fault", "after"),
        [
            pytest.param("storage gone for good", refused(503, "ServiceUnavailable"), 300, marks=pytest.mark.long),
            pytest.param("storage gone for good", faulty_s3.reset, 150, marks=pytest.mark.long),
            pytest.param("storage gone for good", refused(500, "InternalError"), 150, marks=pytest.mark.long),
            pytest.param("credentials expire", refused(400, "ExpiredToken"), 200, marks=pytest.mark.long),
            pytest.param("bucket removed", refused(404, "NoSuchBucket"), 250, marks=pytest.mark.long),
        ],
    )
    def test_gone_in_the_middle(
        self,
        name: str,
        fault: Fault,
        after: int,
        undisturbed: Undisturbed,
        s3_root: str,
        place: str,
        proxy: FaultyS3,
        bucket: s3fs.S3FileSystem,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        ledger: Ledger,
    ) -> None:
        monkeypatch.setattr("zssmnet.storage.s3._MOST_ATTEMPTS", 2)
        proxy.rules.append(Rule(fault, spared=after))
        with ledger.tried("whole run on S3", name):
            assert run(undisturbed.words(f"{s3_root}/root", place)) == 1
            assert "s3://" in error_line(capsys)
            assert self.files(bucket, f"{s3_root}/root", tmp_path / "so far")
            assert_whole(str(tmp_path / "so far"), undisturbed.files)
            proxy.calm()
            assert run(undisturbed.words(f"{s3_root}/root", place)) == 0
            assert self.files(bucket, f"{s3_root}/root", tmp_path / "root") == undisturbed.files


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A small file system at ``folder``; skips where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class TestDisk:
    @pytest.mark.long
    @pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97])
    def test_full_in_the_middle(
        self,
        share: float,
        undisturbed: Undisturbed,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        ledger: Ledger,
    ) -> None:
        disk = tmp_path / "disk"
        with (
            small_disk(disk, round(share * size_of(undisturbed.root) / 1024)),
            ledger.tried("whole run on a disk", "disk full"),
        ):
            assert run(undisturbed.words(disk / "root")) == 1
            assert re.search("(No space left on device:|is the disk full[?]) make room there", error_line(capsys))
            assert_whole(f"{disk}/root", undisturbed.files)
            make_room(disk)
            assert run(undisturbed.words(disk / "root")) == 0
            assert digests(f"{disk}/root") == undisturbed.files
            assert not list(disk.rglob(".partial"))

    @pytest.mark.long  # TensorBoard's own thread fails too, and says so
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_full_temporary_folder(
        self,
        undisturbed: Undisturbed,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        ledger: Ledger,
    ) -> None:
        disk, root = tmp_path / "disk", tmp_path / "root"
        with small_disk(disk, 1024), ledger.tried("whole run on a disk", "temporary folder full"):
            (disk / "taken").write_bytes(bytes(2**20 - 2**14))
            monkeypatch.setattr("tempfile.tempdir", str(disk))
            assert run(undisturbed.words(root)) == 1
            assert f"{disk}: cannot be written: No space left on device: make room there" in error_line(capsys)
            assert_whole(str(root), undisturbed.files)
            make_room(disk)
            assert run(undisturbed.words(root)) == 0
            assert digests(str(root)) == undisturbed.files
