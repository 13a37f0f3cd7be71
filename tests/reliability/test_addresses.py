"""Every command and every kind of address: right, or refused in one line, and nothing is written elsewhere."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from flows import cli
from tests.reliability.command import Ended, zssmnet
from zssmnet.errors import InputError
from zssmnet.mnet import MNet
from zssmnet.storage import open_storage, read_file
from zssmnet.storage.address import checked_address, local_path
from zssmnet.storage.s3 import S3Storage

ARCHIVE = "--images_path {inputs} --zonal_mask_path {inputs}"
COMMANDS = {
    "prepare": f"{ARCHIVE} --output_path",
    "cubes": "--data {inputs} --save",
    "pretrain": "--data {inputs} --output",
    "run": f"{ARCHIVE} --output",
    "retrain": f"{ARCHIVE} --output",
    "import-dicom": "--dicom_path {inputs} --key_file {home}/key --output",
    "check-masks": "--zonal_mask_path {inputs}/masks --output",
    "upload": "--source {inputs}/masks --output",
    "verify": "--output",
    "versions": "--output",
    "rollback": "--output",
    "clean": "--output",
    "nnunet-dataset": f"{ARCHIVE} --lesion_path {{inputs}} --output",
    "export": "--model {home}/a.model --output",
    "package": "--model {home}/a.model --output",
    "probe": f"{ARCHIVE} --task zones --weights {{home}}/missing.model --output",
    "train-zones": f"{ARCHIVE} --output",
    "segment-zones": "--model {home}/missing --images_path {inputs} --output",
    "evaluate": "--predictions {inputs} --labels {inputs} --output",
}
"""Each with the flag of its output last; the input of those that would work for long is empty."""
READING = {
    "prepare": "--zonal_mask_path {home}/new --output_path {home}/new --images_path",
    "prepare masks": "--images_path {home}/new --output_path {home}/new --zonal_mask_path",
    "prepare splits": f"{ARCHIVE} --output_path {{home}}/new --splits_path",
    "prepare config": f"{ARCHIVE} --output_path {{home}}/new --config",
    "cubes": "--save {home}/new --data",
    "pretrain": "--output {home}/new --data",
    "check-masks": "--output {home}/new --zonal_mask_path",
    "upload": "--output {home}/new --source",
    "import-dicom": "--key_file {home}/key --output {home}/new --dicom_path",
    "import-dicom key": "--dicom_path {inputs} --output {home}/new --key_file",
    "export": "--output {home}/new --model",
    "package": "--output {home}/new --model",
    "package probe": "--model {home}/a.model --output {home}/new --probe",
    "probe": f"{ARCHIVE} --task zones --output {{home}}/new --weights",
    "train-zones": "--images_path {inputs} --output {home}/new --zonal_mask_path",
    "segment-zones": "--images_path {inputs} --output {home}/new --model",
    "evaluate": "--labels {inputs} --output {home}/new --predictions",
    "evaluate labels": "--predictions {inputs} --output {home}/new --labels",
}
"""The same of what commands read."""
MAKES = {"check-masks": "masks.html", "upload": "c.nii.gz", "export": "", "package": "README.md"}
"""What those make that have all they need, below the address."""
LOCAL_ALONE = ("nnunet-dataset", "export", "package", "demo")
USABLE = {
    "relative": "new",
    "relative, deeper": "./one/../new/x",
    "absolute": "{home}/new",
    "home": "~/new",
    "a slash at the end": "new/",
    "spaces": "a new folder",
    "percent": "100%25",
    "hash": "a#b",
    "question mark": "a?b=c",
    "umlaut": "Prüfung",
    "colon": "10:30",
    "a quote": "d'Arc",
    "dollar": "5$",
}
REFUSED = {
    "s3 with one slash": "s3:/bucket/root",
    "s3 without a slash": "s3:bucket/root",
    "s3 in capitals": "S3:/bucket",
    "s3 in capitals, two slashes": "S3://bucket/x",
    "s3 made absolute": "/work/s3:/bucket/root",
    "s3 below a folder": "./s3:/bucket",
    "s3 without a bucket": "s3:///x",
    "s3 with a bucket that none can be": "s3://a b?/x",
    "s3a": "s3a://bucket/x",
    "file, one slash": "file:/x",
    "file, three slashes": "file:///x",
    "gs": "gs://bucket/x",
    "https": "https://host/bucket",
    "https, one slash": "https:/host/bucket",
    "another machine": "server:/data",
    "s3 upwards": "s3://bucket/../x",
    "a line break": "new\nfolder",
    "ARN": "arn:aws:s3:::bucket/root",
    "drive": "C:\\data",
    "drive, slashes": "d:/data",
    "drive alone": "C:",
    "share": "\\\\server\\data",
    "variable": "$HOME/data",
    "variable of Windows": "%USERPROFILE%/data",
    "quotes": '"new"',
    "single quotes": "'s3://bucket/x'",
}


def test_every_command_is_tried() -> None:
    assert {*COMMANDS, "demo"} == set(cli.COMMANDS)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, in which a user stands in the folder ``here``."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZSSMNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    (tmp_path / "inputs" / "masks").mkdir(parents=True)
    mask = np.zeros((6, 20, 20), np.uint8)
    mask[1:5, 5:15, 5:10], mask[1:5, 5:15, 10:15] = 1, 2
    sitk.WriteImage(sitk.GetImageFromArray(mask), tmp_path / "inputs" / "masks" / "c.nii.gz")
    torch.save({"state_dict": MNet(6, 3, (2, 2, 2, 2, 2)).state_dict()}, tmp_path / "a.model")
    (tmp_path / "key").write_text("a secret key of some length")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def files(home: Path) -> set[str]:
    """All files in the home but for those that libraries keep for themselves."""
    found = (path for path in home.rglob("*") if path.is_file())
    return {str(path) for path in found if path.relative_to(home).parts[0] not in ("cache", ".cache", ".config")}


def ended(command: str, flags: str, address: str, home: Path) -> Ended:
    words = flags.format(home=home, inputs=home / "inputs").split()
    return zssmnet(command.split()[0], *words, address.format(home=home))


@pytest.mark.parametrize("kind", USABLE)
def test_what_is_written_lies_where_it_was_asked_for(kind: str, home: Path) -> None:
    before, address = files(home), USABLE[kind].format(home=home)
    place = Path(address.replace("~", str(home))).resolve()
    for command, flags in COMMANDS.items():
        there = f"{address.rstrip('/')}/{command}"
        done = ended(command, flags, there, home)
        if command in MAKES:
            assert (place / command / MAKES[command]).is_file(), done
        else:
            assert done.status == 0 or done.line
    assert all(Path(file).is_relative_to(place) for file in files(home) - before)


@pytest.mark.parametrize("command", [*COMMANDS, "demo"])
def test_what_is_no_address_is_refused_in_one_line(command: str, home: Path) -> None:
    before = set(home.rglob("*"))
    for kind, address in REFUSED.items():
        done = ended(command, COMMANDS.get(command, "--output"), address, home)
        address = address.format(home=home)
        assert done.status in (1, 2) and address.split("\n")[0] in done.line, (kind, done)
        assert set(home.rglob("*")) == before, kind


@pytest.mark.parametrize("command", READING)
def test_what_is_no_address_is_not_read(command: str, home: Path) -> None:
    for kind, address in REFUSED.items():
        done = ended(command, READING[command], address, home)
        address = address.format(home=home)
        assert done.status in (1, 2) and address.split("\n")[0] in done.line, (kind, done)
        assert not (home / "new").exists()


@pytest.mark.parametrize("command", LOCAL_ALONE)
def test_what_cannot_write_to_s3_says_so(command: str, home: Path) -> None:
    before = files(home)
    done = ended(command, COMMANDS.get(command, "--output"), "s3://bucket/x", home)
    assert (done.status, done.line) == (
        1,
        "zssmnet: error: s3://bucket/x: is in S3, but only a local path can be used here; 'zssmnet upload' sends a "
        "folder",
    )
    assert files(home) == before


@pytest.mark.parametrize("prefix", ["x", "a b", "100%25", "a#b", "a?b=c", "Prüfung", "x/"])
def test_what_is_sent_to_s3_lies_there(prefix: str, home: Path, s3_root: str) -> None:
    before, address = files(home), f"{s3_root}/{prefix}"
    assert ended("upload", COMMANDS["upload"], address, home).status == 0
    assert ended("check-masks", COMMANDS["check-masks"], address, home).status in (0, 1)
    assert {entry.key for entry in open_storage(address).list()} == {"c.nii.gz", "masks.html", "masks-rows.jsonl"}
    for command in ("verify", "versions", "prepare", "cubes", "run"):
        assert ended(command, COMMANDS[command], address, home).line
    assert files(home) == before


def test_a_file_where_a_folder_is_asked_for(home: Path) -> None:
    (home / "file").write_text("mine")
    before = files(home)
    for command, flags in COMMANDS.items():
        done = ended(command, flags, "{home}/file", home) if command != "export" else None
        assert done is None or (command == "clean" and "nothing to remove" in done.out) or done.line
    for command, flags in READING.items():
        if command not in ("prepare splits", "prepare config", "import-dicom key", "package probe"):
            assert ended(command, flags, "{home}/file", home).line
    assert (home / "file").read_text() == "mine"
    assert files(home) == before


def test_a_folder_where_a_file_is_asked_for(home: Path) -> None:
    before = files(home)
    for command in ("prepare splits", "prepare config", "import-dicom key", "package probe", "export", "package"):
        assert ended(command, READING[command], "{home}/inputs", home).line
    assert ended("export", COMMANDS["export"], "{home}/inputs", home).line
    assert files(home) == before


@pytest.mark.parametrize("address", [*REFUSED.values(), "", " ", "${WORK}/x", Path("s3://bucket/x"), Path("file:///x")])
def test_python_functions_refuse_them_too(address: str | Path) -> None:
    for function in (checked_address, local_path, open_storage, read_file):
        with pytest.raises(InputError, match=r"^(.|\n)+$") as refused:
            function(address)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://bucket/a/b/", "bucket", "a/b"),
        ("s3://arn:aws:s3:us-east-2:123456789012:accesspoint/name/a/b", "accesspoint/name", "a/b"),
        ("s3://arn:aws:s3:us-east-2:123456789012:accesspoint/name", "accesspoint/name", ""),
        ("s3://arn:aws:s3:us-east-2:123456789012:accesspoint:name/a", "accesspoint:name", "a"),
        ("s3://arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/n/a", "op-1/accesspoint/n", "a"),
    ],
)
def test_a_bucket_may_be_an_access_point(address: str, bucket: str, prefix: str, s3_endpoint: str) -> None:
    storage = S3Storage(address)
    assert storage.bucket.endswith(bucket)
    assert storage._prefix == prefix
    assert storage.where("x") == f"{address.rstrip('/')}/x"


def test_a_folder_whose_name_only_begins_alike_is_another(s3_root: str) -> None:
    for folder in ("data", "data_private", "dat"):
        open_storage(f"{s3_root}/{folder}").publish_bytes("x", b"1")
    assert [entry.key for entry in open_storage(f"{s3_root}/data").list()] == ["x"]
    assert [entry.key for entry in open_storage(s3_root).list("data")] == ["data/x"]


def test_a_device_is_no_file_to_replace(home: Path) -> None:
    os.mkfifo(home / "pipe")
    assert "is a device or pipe" in ended("export", COMMANDS["export"], "{home}/pipe", home).line
    assert (home / "pipe").is_fifo()
