"""Small archives of synthetic cases for tests of whole flows."""

import fcntl
import os
import shutil
from pathlib import Path

from tests.server import FOLDER
from zssmnet.phantom import GridSpec, evenly_split_cases, write_archive

SMALL_GRIDS = (
    GridSpec.centred((128, 128, 17), (0.8, 0.8, 3.3), (0.0, 0.0, 0.0)),
    GridSpec.centred((160, 160, 17), (0.5, 0.5, 3.0), (3.0, -2.0, 1.0), degrees=12),
)

QUICK_SETTINGS = """\
[cubes]
cubes_per_case = 2

[pretraining.network]
channels = [2, 2, 2, 2, 2]

[pretraining.corruption.shuffling]
windows = 50

[pretraining.training]
epochs = 2
batch_size = 4
device = "cpu"
"""


def small_archive(folder: Path, cases: int = 6) -> tuple[Path, Path]:
    """An nnU-Net raw archive whose cases the stable split spreads over all six subsets: (images, masks)."""
    for case_id in evenly_split_cases(cases):
        shutil.copytree(_drawn(case_id), folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return folder / "nnunet_raw", folder / "zonal_masks"


def _drawn(case_id: str) -> Path:
    """An archive of one case, drawn once in a session: that takes longer than most of what is done with it."""
    shelf = Path(os.environ[FOLDER]) / "cases"
    shelf.mkdir(exist_ok=True)
    drawn = shelf / case_id
    with (shelf / f"{case_id}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not drawn.exists():
            write_archive(shelf / f"{case_id}.partial", [case_id], grids=SMALL_GRIDS)
            (shelf / f"{case_id}.partial").rename(drawn)
    return drawn
