"""Storage on a real S3 endpoint, and the local cache of what was fetched."""

import os
import time
from pathlib import Path

import pytest

from tests.zssmnet.storage.storage_contract import StorageContract
from zssmnet.errors import ConfigError, StorageError
from zssmnet.storage import open_storage
from zssmnet.storage.cache import SPARED_S, Cache
from zssmnet.storage.s3 import S3Storage


class TestS3Storage(StorageContract):
    @pytest.fixture
    def storage(self, s3_root: str) -> S3Storage:
        return S3Storage(s3_root)

    def test_a_file_is_fetched_once_and_again_when_it_changes(self, storage: S3Storage, tmp_path: Path) -> None:
        storage.publish_bytes("folder/file.nii.gz", b"one")
        first = storage.local("folder/file.nii.gz")
        assert first.name == "file.nii.gz"
        fetched = first.stat().st_ino
        assert storage.local("folder/file.nii.gz").stat().st_ino == fetched
        storage.publish_bytes("folder/file.nii.gz", b"two")
        assert storage.local("folder/file.nii.gz").read_bytes() == b"two"
        assert first.read_bytes() == b"one"
        assert not list((tmp_path / "cache" / "partial").iterdir())

    @pytest.mark.long
    def test_more_files_than_a_page_of_a_listing(self, storage: S3Storage) -> None:
        for number in range(1001):
            storage.exchange(f"many/{number:04}", b"x", None)
        assert len(storage.list("many")) == 1001

    def test_a_missing_bucket_is_an_error_of_one_line(self, storage: S3Storage) -> None:
        elsewhere = open_storage("s3://no-such-bucket-here/prefix")
        with pytest.raises(StorageError, match=r"^s3://no-such-bucket-here/prefix/file: cannot be written: .+$"):
            elsewhere.publish_bytes("file", b"x")

    def test_no_endpoint_is_an_error_of_one_line(self, storage: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setattr("zssmnet.storage.s3._MOST_ATTEMPTS", 1)
        with pytest.raises(StorageError) as caught:
            open_storage("s3://bucket/prefix").publish_bytes("file", b"x")
        assert "\n" not in str(caught.value)


def test_cache_keeps_its_limit_and_what_was_used_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=250)

    def fill(path: Path) -> None:
        path.write_bytes(bytes(100))

    copies = [cache.get(f"s3://bucket/{number}", "1", fill) for number in range(4)]
    long_ago = time.time() - SPARED_S - 100
    for age, copy in zip((4, 1, 3, 2), copies, strict=True):
        os.utime(copy, (long_ago - age, long_ago - age))
    cache.trim()
    assert [copy.exists() for copy in copies] == [False, True, False, True]


def test_cache_spares_what_somebody_may_be_about_to_open(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=0)
    copy = cache.get("s3://bucket/file", "1", lambda path: path.write_bytes(b"x") and None)
    cache.trim()
    assert copy.exists()


def test_cache_keeps_nothing_of_a_fetch_that_failed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=1000)

    def cut_off(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("connection reset")

    with pytest.raises(OSError, match="connection reset"):
        cache.get("s3://bucket/file", "1", cut_off)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "minio", "http://", "ftp://minio", "http://minio:port", "https:/minio", "http://[::1"]
)
def test_an_endpoint_that_is_no_address_is_one_line(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises((ConfigError, StorageError)) as error:
        open_storage("s3://bucket/root").list()
    assert str(error.value).startswith("s3://bucket/root: ")
    assert endpoint in str(error.value)
    assert "AWS_ENDPOINT_URL" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_variable_of_botocore_that_is_no_number_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_METADATA_SERVICE_TIMEOUT", "odd")
    with pytest.raises(ConfigError, match=r"s3://bucket/root: .*'odd'; .* the other variables AWS_"):
        open_storage("s3://bucket/root").list()
