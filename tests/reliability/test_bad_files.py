"""Inputs that end a whole command: exit status, one line that names the file, nothing published."""

import re
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.command import zssmnet
from tests.reliability.corpus import cases, meta_image, nifti
from tests.reliability.corpus.files import RAN, checkpoints, cubes, settings, splits
from tests.reliability.corpus.member import ARCHIVE, CHECKPOINTS, CUBES, SETTINGS, SPLITS, BrokenFile
from tests.reliability.ledger import Ledger
from tests.zssmnet.examinations import Archive
from tests.zssmnet.interruption import contents
from tests.zssmnet.training.examples import cubes_file, write_cubes
from zssmnet.training.checkpoint import BEST, LAST

CASES = ["10001_1000001", "10002_1000002"]
RECIPE = """\
[pretraining.network]
channels = [2, 2, 2, 2, 2]

[pretraining.corruption.shuffling]
windows = 10

[pretraining.training]
batch_size = 2
device = "cpu"
"""


def few(members: Iterable[BrokenFile], most: int = 1) -> list[Any]:
    """The first of each fault always, the others where many tries are wanted: a command takes its second."""
    met: Counter[str] = Counter()
    params = []
    for member in members:
        met[member.fault] += 1
        marks = [pytest.mark.long] if met[member.fault] > most else []
        params.append(pytest.param(member, id=member.name, marks=marks))
    return params


def refused(member: BrokenFile, named: Path | None, status: int, *arguments: str | Path) -> None:
    """The command ends with one line that names the file and says what is wrong, and no code of it runs."""
    ended = zssmnet(*arguments)
    assert ended.status == status
    assert ended.out == ""
    assert re.search(member.says, ended.line), ended.line
    assert len(ended.line) < 900
    assert not Path(RAN).exists()
    if named:
        assert str(named.parent) in ended.line and named.name in ended.line
        assert not (named.parent / RAN).exists()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    archive = Archive(tmp_path_factory.mktemp("archive"))
    for case_id in CASES:
        archive.add(case_id)
    return archive


def options(archive: Archive) -> list[str | Path]:
    return ["--images_path", archive.root / "images", "--zonal_mask_path", archive.root / "masks"]


@pytest.mark.parametrize("member", few(splits(CASES)))
def test_splits(member: BrokenFile, archive: Archive, tmp_path: Path, ledger: Ledger) -> None:
    file, data = tmp_path / "splits.json", tmp_path / "data"
    member.make(file)
    with ledger.tried(SPLITS, member.fault):
        named = file if "no case is left" not in member.says else None
        refused(member, named, 1, "prepare", *options(archive), "--splits_path", file, "--output_path", data)
        assert not data.exists()


@pytest.mark.parametrize("member", few(cubes()))
def test_cubes(member: BrokenFile, tmp_path: Path, ledger: Ledger) -> None:
    write_cubes(tmp_path / "cubes")
    file, weights, recipe = cubes_file(tmp_path / "cubes", 5), tmp_path / "weights", tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    member.make(file)
    with ledger.tried(CUBES, member.fault):
        refused(member, file, 1, "pretrain", "--data", file.parent, "--output", weights, "--config", recipe)
        assert not list(weights.glob("**/*.model"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch that may go on."""
    folder = tmp_path_factory.mktemp("trained")
    write_cubes(folder / "cubes")
    (folder / "recipe.toml").write_text(RECIPE)
    assert train(folder, 1).status == 0
    return folder


def train(folder: Path, epochs: int):
    return zssmnet(*training(folder, epochs))


def training(folder: Path, epochs: int) -> list[str | Path]:
    where = ["--data", folder / "cubes", "--output", folder / "weights"]
    return ["pretrain", *where, "--config", folder / "recipe.toml", "--epochs", str(epochs)]


@pytest.mark.parametrize("member", few(checkpoints()))
def test_checkpoints(member: BrokenFile, trained: Path, tmp_path: Path, ledger: Ledger) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    (last,) = (folder / "weights").glob(f"training/*/{LAST}")
    member.make(last)
    before = contents(folder / "weights")
    with ledger.tried(CHECKPOINTS, member.fault):
        refused(member, last, 1, *training(folder, 2))
        after = contents(folder / "weights")
        assert {name: after.get(name) for name in before} == before
        assert {name for name in after if name.endswith(".model")} == {
            name for name in before if name.endswith(".model")
        }


def test_a_good_checkpoint_goes_on(trained: Path, tmp_path: Path) -> None:
    """What the refusals above are worth."""
    folder = shutil.copytree(trained, tmp_path / "run")
    ended = train(folder, 2)
    assert ended.status == 0
    assert "of 2, validation loss" in ended.out


def test_a_checkpoint_without_its_best_model(trained: Path, tmp_path: Path, ledger: Ledger) -> None:
    """Of the best epoch itself, it brings the model back."""
    folder = shutil.copytree(trained, tmp_path / "run")
    (best,) = (folder / "weights").glob(f"training/*/{BEST}")
    whole = best.read_bytes()
    best.unlink()
    with ledger.tried(CHECKPOINTS, "good after all"):
        assert train(folder, 2).status == 0
        assert best.exists() and len(best.read_bytes()) == len(whole)


@pytest.mark.parametrize("member", few(settings(), 99))
def test_settings(member: BrokenFile, archive: Archive, tmp_path: Path, ledger: Ledger) -> None:
    file, data = tmp_path / "settings.toml", tmp_path / "data"
    member.make(file)
    with ledger.tried(SETTINGS, member.fault):
        refused(member, file, 2, "prepare", *options(archive), "--config", file, "--output_path", data)
        assert not data.exists()


NO_BUCKET, CONTROLS = (
    "names no bucket; expected s3://bucket/prefix",
    "this address cannot be used: it has control characters",
)
ADDRESSES = {
    "NUL": ("a\0b", CONTROLS),
    "two lines": ("a\nb", CONTROLS),
    "two lines in a bucket": ("s3://a\nb", CONTROLS),
    "s3 alone": ("s3://", NO_BUCKET),
    "s3 without a bucket": ("s3:///prefix", NO_BUCKET),
    "s3 with a bad bucket": ("s3://Bad_Bucket name/x", "names no bucket; expected s3://"),
    "another service": ("gs://bucket/x", "only local folders and s3://bucket/prefix can be used"),
    "a web page": ("https://127.0.0.1/x", "only local folders and s3://bucket/prefix can be used"),
    "a name too long": ("x" * 300, "cannot be listed: File name too long"),
    "a file": (__file__, "no such folder, or an empty one"),
    "a device": ("/dev/null", "no such folder, or an empty one"),
    "nothing": ("/nothing/here", "no such folder, or an empty one"),
}


@pytest.mark.parametrize("address", ["", "  "])
@pytest.mark.parametrize("command", ["verify --output", "pretrain --output w --data", "cubes --data d --save"])
def test_empty_addresses(command: str, address: str, ledger: Ledger) -> None:
    with ledger.tried(ARCHIVE, "addresses"):
        refused(BrokenFile("empty", "", "an empty address; name a local", print), None, 2, *command.split(), address)


@pytest.mark.parametrize("name", ADDRESSES)
def test_addresses(name: str, archive: Archive, tmp_path: Path, s3_endpoint: str, ledger: Ledger) -> None:
    address, says = ADDRESSES[name]
    member = BrokenFile(name, "addresses", says, lambda path: None)
    with ledger.tried(ARCHIVE, member.fault):
        masks = ["--zonal_mask_path", archive.root / "masks", "--output_path", tmp_path / "data"]
        refused(member, None, 1, "prepare", "--images_path", address, *masks)
        refused(BrokenFile(name, "", ".", print), None, 1, "verify", "--output", address)


ARCHIVES = {
    "no masks": ("imagesTr/a_0000.nii.gz", "", "no zonal mask"),
    "no case": ("notes.txt", "a.nii.gz", "no case found; expected imagesTr/"),
    "two kinds": ("a_0000.nii.gz b/b_1_t2w.mha", "a.nii.gz", "holds both"),
    "test images alone": ("imagesTs/a_0000.nii.gz", "a.nii.gz", "no case of the format 'nnunet' found"),
    "no case in common": (
        "imagesTr/a_0000.nii.gz",
        "b.nii.gz",
        "none of 1 cases can be used: a .*: missing: ",
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name: str, tmp_path: Path, ledger: Ledger) -> None:
    images, masks, says = ARCHIVES[name]
    for folder, names in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for file in names.split():
            (tmp_path / folder / file).parent.mkdir(exist_ok=True)
            (tmp_path / folder / file).touch()
    with ledger.tried(ARCHIVE, "no archive"):
        member = BrokenFile(name, "", says, print)
        refused(member, None, 1, "prepare", *options(Archive(tmp_path)), "--output_path", tmp_path / "data")
        assert not list(tmp_path.glob("data/subset*"))


@pytest.mark.parametrize("pattern", ["(", "(?P<patient>", r"(\d+)_", "(?P<patient>.)" + "(" * 200])
def test_patient_patterns(pattern: str, archive: Archive, tmp_path: Path, ledger: Ledger) -> None:
    with ledger.tried(SETTINGS, "patient pattern"):
        member = BrokenFile(pattern, "", "is no regular expression|has no group", print)
        command = ["prepare", *options(archive), "--output_path", tmp_path / "data", "--patient_pattern", pattern]
        refused(member, None, 1, *command)


def test_the_corpus_is_large_enough() -> None:
    """Broken inputs, no name twice; what random damage adds does not count."""
    broken = [case.id for case in [*nifti.broken_cases(), *cases.broken_masks(), *cases.broken_archive()]]
    broken += dict(meta_image.broken_cases())
    for group in (splits(CASES), cubes(), checkpoints(), settings()):
        names = [member.name for member in group]
        assert len(set(names)) == len(names)
        broken += names
    broken += [*ADDRESSES, *ARCHIVES]
    good = [case.id for case in [*nifti.good_cases(), *cases.good_masks(), *cases.good_ids()]]
    assert len(set(broken[: -len(ADDRESSES)])) >= 60
    assert len(broken) >= 260
    assert len(good) + len(dict(meta_image.good_cases())) >= 35


NAMING = '{{"method": 1, "inputs": [], "outputs": [{{"key": "{}", "size": 5, "sha256": "x"}}]}}'
RECORDS = {
    "cut": '{"method": 1',
    "binary": "\x00\x01",
    "of other things": "[]",
    "a file outside the root": NAMING.format("../../../../etc/passwd"),
    "an absolute file": NAMING.format("/etc/passwd"),
    "two lines": NAMING.format("two\\nlines"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_a_root_that_is_verified(name: str, tmp_path: Path, ledger: Ledger) -> None:
    """A record is read, never believed: it cannot lead out of the root."""
    (tmp_path / "SSL/data/records").mkdir(parents=True)
    (tmp_path / "SSL/data/records/a.json").write_text(RECORDS[name])
    with ledger.tried(ARCHIVE, "records of a working root"):
        ended = zssmnet("verify", "--output", tmp_path)
        assert ended.status == 1
        assert f"{tmp_path}: 1 changed; remove what is changed" in ended.line


@pytest.mark.parametrize("which", range(4))
def test_prepared_cases_that_were_damaged(which: int, archive: Archive, tmp_path: Path, ledger: Ledger):
    """Cubes are cut from whole cases only."""
    data, saved = tmp_path / "data", tmp_path / "cubes"
    for number, suffix in enumerate(("_0000.nii.gz", "_0001.nii.gz", "_0002.nii.gz", ".nii.gz")):
        source = archive.mask_path(CASES[0]) if number == 3 else archive.image_path(number, CASES[0])
        (data / "subset0").mkdir(parents=True, exist_ok=True)
        content = source.read_bytes()
        file = data / "subset0" / f"{CASES[0]}{suffix}"
        file.write_bytes(content[:-20] if number == which else content)
        if number == which:
            damaged = file
    member = BrokenFile("cut", "", "is truncated or damaged: .*; prepare the case again", print)
    with ledger.tried(CUBES, "prepared cases that were damaged"):
        refused(member, damaged, 1, "cubes", "--data", data, "--save", saved, "--fold", "0")
        assert not list(saved.glob("*.npy"))
