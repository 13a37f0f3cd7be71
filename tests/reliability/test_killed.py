"""A run that is killed at any moment and started again ends with the files of an undisturbed one.

``ZSSMNET_KILL_SEED`` draws other moments, ``ZSSMNET_KILL_ROOTS`` tells how many of the long runs there are.
"""

import itertools
import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs

from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.killing import AT_RANDOM, STAGES, Place, die_often, draw
from tests.reliability.ledger import Ledger
from tests.reliability.mortal import Death

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
ROOTS = int(os.environ.get("ZSSMNET_KILL_ROOTS", "5"))
"""Of a long test: so many runs are killed again and again until they come to their end."""
AT_CHANGES, AT_MOMENTS = 3, 2
"""Kills in each stage on each of these, of the one kind and of the other."""


@dataclass(frozen=True)
class Undisturbed:
    """An archive, and what an undisturbed run makes of it.

    Attributes:
        folder: the archive's, with the settings.
        files: digests of all files.
        deaths: all that a run can die.
        lengths_s: of the stages.
    """

    folder: Path
    files: dict[str, str]
    deaths: list[Death]
    lengths_s: dict[str, float]

    def command(self, archive: str, root: str) -> list[str]:
        """The words of the run."""
        images, masks, settings = f"{archive}/nnunet_raw", f"{archive}/zonal_masks", str(self.folder / "quick.toml")
        return ["run", "--images_path", images, "--zonal_mask_path", masks, "--config", settings, "--output", root]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Undisturbed:
    folder = tmp_path_factory.mktemp("archive")
    small_archive(folder)
    (folder / "quick.toml").write_text(QUICK_SETTINGS)
    place = Place(str(folder / "root"), folder / "scratch", prefect_api)
    place.finish(Undisturbed(folder, {}, [], {}).command(str(folder), place.root))
    place.assert_finished(place.digests())
    return Undisturbed(folder, place.digests(), place.deaths(), place.lengths_s())


Work = Callable[[str], tuple[Place, list[str]]]


@pytest.fixture(params=["folder", pytest.param("S3", marks=pytest.mark.long)])
def work(request: pytest.FixtureRequest, undisturbed: Undisturbed, tmp_path: Path, prefect_api: str) -> Work:
    """Gives a new working root and the command that works on it."""
    archive = str(undisturbed.folder)
    root = str(tmp_path)
    if request.param == "S3":
        root = request.getfixturevalue("s3_root")
        archive = f"{root}/archive"
        bucket = s3fs.S3FileSystem(use_listings_cache=False)
        for name in ("nnunet_raw", "zonal_masks"):
            bucket.put(f"{undisturbed.folder / name}/", f"{archive}/{name}/", recursive=True)

    def make(name: str) -> tuple[Place, list[str]]:
        place = Place(f"{root}/{name}", tmp_path / f"scratch of {name}", prefect_api)
        return place, undisturbed.command(archive, place.root)

    return make


@pytest.fixture
def drawn() -> random.Random:
    return random.Random(int(os.environ.get("ZSSMNET_KILL_SEED", "1")))


def test_killed_once_in_each_stage(work: Work, undisturbed: Undisturbed, drawn: random.Random, ledger: Ledger) -> None:
    place, command = work("root")
    die_often(place, command, draw(undisturbed.deaths, 1, drawn), [undisturbed.files], ledger)


@pytest.mark.long
def test_killed_at_many_changes(work: Work, undisturbed: Undisturbed, drawn: random.Random, ledger: Ledger) -> None:
    deaths = draw(undisturbed.deaths, ROOTS * AT_CHANGES, drawn)
    missed: list[Death] = []
    for number in range(ROOTS):
        place, command = work(f"root{number}")
        missed = die_often(place, command, [*missed, *deaths[number::ROOTS]], [undisturbed.files], ledger)


@pytest.mark.long
def test_killed_at_many_random_moments(
    work: Work, undisturbed: Undisturbed, drawn: random.Random, ledger: Ledger
) -> None:
    for number in range(ROOTS):
        place, command = work(f"root{number}")
        with ExitStack() as counted:
            for stage in STAGES:
                longest_s = undisturbed.lengths_s[stage] / AT_MOMENTS
                hits = (place.kill(command, stage, drawn.uniform(0, longest_s)) for _ in range(AT_MOMENTS))
                for hit in itertools.takewhile(bool, hits):  # until no more of this stage is left to do
                    counted.enter_context(ledger.tried(f"{hit} {place.kind}", AT_RANDOM))
                    place.assert_whole(undisturbed.files)
            place.finish(command)
            place.assert_finished(undisturbed.files)
