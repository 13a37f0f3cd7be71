"""Small archives of synthetic cases for tests of whole flows."""

import shutil
from functools import partial
from pathlib import Path

from tests.server import made_once
from zssmnet.phantom import GridSpec, evenly_split_cases, write_archive

SMALL_GRIDS = (
    GridSpec.centred((80, 80, 16), (0.8, 0.8, 3.3), (0.0, 0.0, 0.0)),
    GridSpec.centred((112, 112, 17), (0.5, 0.5, 3.0), (3.0, -2.0, 1.0), degrees=12),
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
        drawn = made_once(f"cases/{case_id}", partial(_draw, case_id))
        shutil.copytree(drawn, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return folder / "nnunet_raw", folder / "zonal_masks"


def _draw(case_id: str, folder: Path) -> None:
    write_archive(folder, [case_id], grids=SMALL_GRIDS)
