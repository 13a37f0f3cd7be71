"""Commands that replace what is there, killed: retraining, preparing a changed archive, rolling back."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs

from tests.commands import Commands
from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.killing import Place, die_often, draw
from tests.reliability.ledger import Ledger
from tests.reliability.mortal import VISIBLE, Death
from zssmnet.data.splits import choose_subsets
from zssmnet.phantom import evenly_split_cases
from zssmnet.registry.challenge import JUDGEMENT, Judgement
from zssmnet.storage import open_storage
from zssmnet.storage.records import read_record

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
ROOTS, KILLS = 4, 4
UNJUDGED: Death = ("pretrained_weights/records/ssl_mnet_zonal.model.json", 2, VISIBLE)
"""The new model is published, its judgement is not."""


@dataclass(frozen=True)
class Group:
    """A research group whose archive has changed since its first model: one case new, one changed, one gone.

    Attributes:
        folder: with the archive, and the working root ``first`` of the first model.
        first: digests of the files before the change.
        commands: starts them.
    """

    folder: Path
    first: dict[str, str]
    commands: Commands

    def command(self, word: str, root: str) -> list[str]:
        """The words of a command."""
        images, masks = str(self.folder / "nnunet_raw"), str(self.folder / "zonal_masks")
        settings = str(self.folder / "quick.toml")
        if word == "retrain":
            return ["retrain", images, masks, root, settings]
        if word == "rollback":
            return ["rollback", "--output", root]
        return ["prepare", "--images_path", images, "--zonal_mask_path", masks, "--output_path", f"{root}/SSL/data"]

    def undisturbed(self, word: str, folder: Path, start: Path) -> Place:
        """Where the command has come to its end, on a copy of a root."""
        shutil.copytree(start, folder / "root")
        place = Place(str(folder / "root"), folder / "scratch", self.commands)
        place.finish(self.command(word, place.root))
        place.assert_finished(place.digests())
        return place


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Group:
    folder = tmp_path_factory.mktemp("group")
    images, masks = small_archive(folder, 7)
    (folder / "quick.toml").write_text(QUICK_SETTINGS)
    (late,) = {*evenly_split_cases(7)} - {*evenly_split_cases(6)}
    subset_of = choose_subsets(evenly_split_cases(7))
    (gone,) = (case for case in evenly_split_cases(6) if subset_of[case] == subset_of[late])
    changed, other, *_ = (case for case in evenly_split_cases(6) if case != gone)

    def files(case_id: str) -> list[Path]:
        channels = [images / "imagesTr" / f"{case_id}_000{channel}.nii.gz" for channel in range(3)]
        return [*channels, masks / f"{case_id}.nii.gz"]

    away = folder / "away"
    away.mkdir()
    for file in files(late):
        file.rename(away / file.name)
    place = Place(str(folder / "first"), folder / "scratch", commands)
    words = ["--images_path", str(images), "--zonal_mask_path", str(masks), "--config", str(folder / "quick.toml")]
    place.finish(["run", *words, "--output", place.root])
    for file in files(late):
        (away / file.name).rename(file)
    for ours, theirs in zip(files(changed), files(other), strict=True):
        shutil.copyfile(theirs, ours)
    for file in files(gone):
        file.unlink()
    return Group(folder, place.digests(), commands)


NewPlace = Callable[[str, Path], Place]


@pytest.fixture(params=["folder", "S3"])
def new_place(request: pytest.FixtureRequest, group: Group, tmp_path: Path) -> NewPlace:
    """Makes a working root with the files of another."""
    where = request.getfixturevalue("s3_root") if request.param == "S3" else str(tmp_path)

    def make(name: str, start: Path) -> Place:
        place = Place(f"{where}/{name}", tmp_path / f"scratch of {name}", group.commands)
        if place.kind == "on S3":
            s3fs.S3FileSystem(use_listings_cache=False).put(f"{start}/", f"{place.root}/", recursive=True)
        else:
            shutil.copytree(start, place.root)
        return place

    return make


@pytest.fixture
def drawn() -> random.Random:
    return random.Random(int(os.environ.get("ZSSMNET_KILL_SEED", "1")))


def test_killed_retraining(
    group: Group, new_place: NewPlace, tmp_path: Path, drawn: random.Random, ledger: Ledger
) -> None:
    done = group.undisturbed("retrain", tmp_path / "undisturbed", group.folder / "first")
    judgement = read_record(open_storage(f"{done.root}/SSL/pretrained_weights"), JUDGEMENT, Judgement)
    assert judgement is not None
    assert judgement.published
    deaths = draw([death for death in done.deaths() if death != UNJUDGED], ROOTS * KILLS, drawn)
    left: list[Death] = [UNJUDGED]
    for number in range(ROOTS):
        place = new_place(f"root{number}", group.folder / "first")
        left += deaths[number::ROOTS]
        files = [group.first, done.digests()]
        left = die_often(place, group.command("retrain", place.root), left, files, ledger, lambda key: "retraining")
    assert UNJUDGED not in left


def test_killed_preparation_of_a_changed_archive(
    group: Group, new_place: NewPlace, tmp_path: Path, drawn: random.Random, ledger: Ledger
) -> None:
    done = group.undisturbed("prepare", tmp_path / "undisturbed", group.folder / "first")
    left = draw(done.deaths(), ROOTS * KILLS, drawn)
    for number in range(2):
        place = new_place(f"root{number}", group.folder / "first")
        files = [group.first, done.digests()]
        command = group.command("prepare", place.root)
        left = die_often(place, command, left, files, ledger, lambda key: "preparation, changed archive,")


def test_killed_rollback(group: Group, new_place: NewPlace, tmp_path: Path, ledger: Ledger) -> None:
    retrained = group.undisturbed("retrain", tmp_path / "retrained", group.folder / "first")
    done = group.undisturbed("rollback", tmp_path / "undisturbed", Path(retrained.root))
    left = done.deaths()
    assert len(left) >= 12
    place = new_place("root", Path(retrained.root))
    files = [retrained.digests(), done.digests()]
    assert not die_often(place, group.command("rollback", place.root), left, files, ledger, lambda key: "rollback")
