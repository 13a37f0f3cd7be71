"""A run that is killed at any moment and started again ends with the files of an undisturbed one.

``ZSSMNET_KILL_SEED`` draws other moments, ``ZSSMNET_KILL_ROOTS`` tells how many of the long runs there are.
"""

import itertools
import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import s3fs

from tests.commands import Commands
from tests.reliability.killing import AT_RANDOM, STAGES, Place, die_often, draw, stage_of
from tests.reliability.ledger import Ledger
from tests.reliability.mortal import Death
from tests.reliability.undisturbed import Undisturbed

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3600)]
ROOTS = int(os.environ.get("ZSSMNET_KILL_ROOTS", "5"))
"""Of a long test: so many runs are killed again and again until they come to their end."""
AT_CHANGES, AT_MOMENTS = 3, 2
"""Kills in each stage on each of these, of the one kind and of the other."""


Work = Callable[[str], tuple[Place, list[str]]]


@pytest.fixture(params=["folder", pytest.param("S3", marks=pytest.mark.long)])
def work(request: pytest.FixtureRequest, undisturbed: Undisturbed, tmp_path: Path, commands: Commands) -> Work:
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
        place = Place(f"{root}/{name}", tmp_path / f"scratch of {name}", commands)
        return place, undisturbed.words(place.root, archive)

    return make


@pytest.fixture
def drawn() -> random.Random:
    return random.Random(int(os.environ.get("ZSSMNET_KILL_SEED", "1")))


def test_killed_once_in_each_stage(work: Work, undisturbed: Undisturbed, drawn: random.Random, ledger: Ledger) -> None:
    place, command = work("root")
    die_often(place, command, draw(undisturbed.deaths, 1, drawn), [undisturbed.files], ledger)


def test_a_flow_killed_once_in_each_stage(
    undisturbed: Undisturbed, tmp_path: Path, drawn: random.Random, ledger: Ledger, flow_commands: Commands
) -> None:
    """And what it makes is, bit for bit, what the plain command makes."""
    place = Place(str(tmp_path / "root"), tmp_path / "scratch", flow_commands)
    command = undisturbed.words(place.root)
    deaths = draw(undisturbed.deaths, 1, drawn)
    die_often(place, command, deaths, [undisturbed.files], ledger, lambda key: f"flow, {stage_of(key)},")


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
