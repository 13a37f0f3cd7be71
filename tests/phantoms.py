"""Small archives of synthetic cases for tests of whole flows."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

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
    drawn, images, masks = _drawn(cases)
    shutil.copytree(drawn, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    return folder / images.relative_to(drawn), folder / masks.relative_to(drawn)


@functools.cache
def _drawn(cases: int) -> tuple[Path, Path, Path]:
    """An archive that is drawn once in each process of pytest: that takes longer than most of what is done with it."""
    folder = Path(tempfile.mkdtemp(prefix="phantoms-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder, *write_archive(folder, evenly_split_cases(cases), grids=SMALL_GRIDS)
