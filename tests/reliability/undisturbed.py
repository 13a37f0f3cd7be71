"""One run of the command that nothing disturbs: what others are compared with. Made once in a session."""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.commands import Commands
from tests.phantoms import QUICK_SETTINGS, small_archive
from tests.reliability.killing import Place, digests
from tests.reliability.mortal import Death
from tests.server import made_once


@dataclass(frozen=True)
class Undisturbed:
    """An archive, and what an undisturbed run makes of it.

    Attributes:
        folder: the archive's, with the settings, and the working root ``root``; nobody changes it.
        files: digests of all files.
        deaths: all that a run can die.
        lengths_s: of the stages.
    """

    folder: Path
    files: dict[str, str]
    deaths: list[Death]
    lengths_s: dict[str, float]

    @property
    def root(self) -> Path:
        """The run's working root."""
        return self.folder / "root"

    def words(self, root: str | Path, archive: str | Path | None = None) -> list[str]:
        """The words of the run, on the archive or a copy of it."""
        archive = archive or self.folder
        inputs = ["--images_path", f"{archive}/nnunet_raw", "--zonal_mask_path", f"{archive}/zonal_masks"]
        return ["run", *inputs, "--config", str(self.folder / "quick.toml"), "--output", str(root)]


@pytest.fixture(scope="session")
def undisturbed(commands: Commands) -> Undisturbed:
    """The archive of six cases with quick settings, and what a run makes of it."""
    folder = made_once("undisturbed", partial(_run, commands))
    noted = json.loads((folder / "noted.json").read_text())
    deaths = [(key, number, moment) for key, number, moment in noted["deaths"]]
    return Undisturbed(folder, digests(str(folder / "root")), deaths, noted["lengths_s"])


def _run(commands: Commands, folder: Path) -> None:
    small_archive(folder)
    (folder / "quick.toml").write_text(QUICK_SETTINGS)
    place = Place(str(folder / "root"), folder / "scratch", commands)
    place.finish(Undisturbed(folder, {}, [], {}).words(place.root))
    place.assert_finished(place.digests())
    noted = {"deaths": place.deaths(), "lengths_s": place.lengths_s()}
    (folder / "noted.json").write_text(json.dumps(noted))
    shutil.rmtree(folder / "scratch")
