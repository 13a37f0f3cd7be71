"""``zssmnet upload`` copies a folder to a bucket that it makes."""

import os
from pathlib import Path

import pytest
import s3fs

from flows import cli
from tests.zssmnet.interruption import leave_half_written
from zssmnet.storage import open_storage


def upload(*words: str) -> int:
    with pytest.raises(SystemExit) as exit:
        cli.main(["upload", *words])
    return int(exit.value.code or 0)


def test_a_folder_is_copied_with_all_below_it(
    tmp_path: Path, s3_endpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "archive" / "imagesTr").mkdir(parents=True)
    (tmp_path / "archive" / "imagesTr" / "10000_1000000_0000.nii.gz").write_bytes(b"an image")
    (tmp_path / "archive" / "dataset.json").write_text("{}")
    for _ in range(2):  # and again
        assert upload("--source", str(tmp_path / "archive"), "--output", "s3://a-new-bucket/archive") == 0
    assert capsys.readouterr().out.splitlines() == [
        "bucket a-new-bucket is made",
        *["2 files, 10 bytes: s3://a-new-bucket/archive"] * 2,
    ]
    there = open_storage("s3://a-new-bucket/archive")
    assert {entry.key: there.read(entry.key) for entry in there.list()} == {
        "imagesTr/10000_1000000_0000.nii.gz": b"an image",
        "dataset.json": b"{}",
    }
    s3fs.S3FileSystem().rm("a-new-bucket", recursive=True)


def test_a_folder_can_be_the_target_and_what_a_killed_command_left_there_goes(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "dataset.json").write_text("{}")
    leave_half_written(tmp_path / "copy")
    assert upload("--source", str(tmp_path / "archive"), "--output", str(tmp_path / "copy")) == 0
    assert [path.name for path in (tmp_path / "copy").rglob("*")] == ["dataset.json"]


def test_an_empty_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upload("--source", str(tmp_path), "--output", str(tmp_path / "copy")) == 1
    assert f"{tmp_path}: no files there" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["", "copy", "link/copy"])
def test_a_folder_is_not_copied_into_itself(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "archive"
    source.mkdir()
    (source / "dataset.json").write_text("{}")
    (tmp_path / "archive" / "link").symlink_to(source)
    assert upload("--source", str(source), "--output", str(source / place)) == 1
    assert f"lies in {source}" in capsys.readouterr().err
    assert sorted(path.name for path in source.iterdir()) == ["dataset.json", "link"]


@pytest.mark.parametrize("note", ["[]", "null", '{"dataset.json": 1}', '{"dataset.json": []}', "[" * 100_000])
def test_a_damaged_note_of_what_was_sent_counts_as_none(
    note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSSMNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "dataset.json").write_text("{}")
    for _ in range(2):
        assert upload("--source", str(tmp_path / "archive"), "--output", str(tmp_path / "copy")) == 0
        for file in (tmp_path / "cache" / "uploads").iterdir():
            file.write_text(note)


@pytest.mark.skipif("os.geteuid() == 0", reason="root may read all files")
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch(mode=0)
    assert upload("--source", str(tmp_path / "a"), "--output", str(tmp_path / "copy")) == 1
    assert f"{tmp_path / 'a' / 'b'}: cannot be read: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["dead link", "pipe"])
def test_what_is_no_file_is_named_and_nothing_is_sent(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "case_0000.nii.gz").touch()
    odd = tmp_path / "a" / "case_0001.nii.gz"
    odd.symlink_to("nowhere") if kind == "dead link" else os.mkfifo(odd)
    assert upload("--source", str(tmp_path / "a"), "--output", str(tmp_path / "copy")) == 1
    assert f"{odd}: is a dead link, or no file" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
