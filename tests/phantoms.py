"""Small archives of synthetic cases for tests of whole flows."""

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
    return write_archive(folder, evenly_split_cases(cases), grids=SMALL_GRIDS)
