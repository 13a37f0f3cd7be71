"""Sets of cubes for benchmarks: files as `zssmnet cubes` leaves them, of any size, written in seconds."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from zssmnet.config import CubesConfig
from zssmnet.data.splits import TRAINING_SUBSETS, VALIDATION_SUBSET
from zssmnet.preparation.cubes import CHANNEL_COUNT, cubes_key

Triple = tuple[int, int, int]
Kind = Literal["noise", "smooth"]
Dtype = Literal["float16", "float64"]
REAL: Triple = (64, 64, 16)
PICAI = (14_376, 3_624)
"""Training and validation cubes of PI-CAI's 1,500 cases."""
DIFFERENT = 96
"""So many cubes are drawn; the others are these again, in another order."""


def write_set(
    folder: Path, training: int, validation: int, size: Triple = REAL, kind: Kind = "noise", dtype: Dtype = "float16"
) -> None:
    """Write six files of cubes: real bytes, a few at a time.

    Args:
        folder: made if need be.
        training, validation: number of cubes; those of training are spread over five files.
        size: of a cube x, y, z in voxels.
        kind: see `draw_cubes`.
        dtype: on disk; the published program writes float64.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pool = draw_cubes(min(DIFFERENT, max(training, validation)), size, kind=kind).astype(dtype)
    rng = np.random.default_rng(1)
    for subset in TRAINING_SUBSETS:
        share = training // len(TRAINING_SUBSETS) + (subset < training % len(TRAINING_SUBSETS))
        _write(folder / cubes_key(CubesConfig(size=size), subset), pool, share, rng)
    _write(folder / cubes_key(CubesConfig(size=size), VALIDATION_SUBSET), pool, validation, rng)


def draw_cubes(count: int, size: Triple, seed: int = 0, kind: Kind = "noise") -> npt.NDArray[np.float16]:
    """Cubes (N, 4, X, Y, Z): three images in 0..1 and a mask of 0, 1, 2.

    Args:
        count: N.
        size: X, Y, Z.
        seed: of the draws.
        kind: `noise` has no structure, as where only speed counts; `smooth` has blobs with a gland's two zones in the
            middle, so that there is something to restore.
    """
    rng = np.random.default_rng(seed)
    images = rng.random((count, CHANNEL_COUNT - 1, *size), np.float32)
    if kind == "smooth":
        images = np.stack([_blobs(rng, size) for _ in range(count)])
    zones = np.broadcast_to(_gland(size), (count, *size))
    return np.concatenate([images, zones[:, None]], axis=1).astype(np.float16)


def _blobs(rng: np.random.Generator, size: Triple, blobs: int = 12) -> npt.NDArray[np.float32]:
    """Three images (3, X, Y, Z) in 0..1 with the same soft blobs in different contrasts, as tissues have."""
    places = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in size), indexing="ij")
    images = np.zeros((3, *size), np.float32)
    for centre, width, contrast in zip(
        rng.uniform(-1, 1, (blobs, 3)), rng.uniform(0.15, 0.6, blobs), rng.normal(size=(blobs, 3)), strict=True
    ):
        distance = sum((place - middle) ** 2 for place, middle in zip(places, centre, strict=True))
        images += contrast[:, None, None, None].astype(np.float32) * np.exp(-distance / (2 * width**2))
    images += rng.normal(scale=0.02, size=images.shape).astype(np.float32)
    low, high = (reduce(images, axis=(1, 2, 3), keepdims=True) for reduce in (np.min, np.max))
    scaled: npt.NDArray[np.float32] = (images - low) / (high - low)
    return scaled


def _gland(size: Triple) -> npt.NDArray[np.float32]:
    """A mask (X, Y, Z): an ellipsoid, its back part the peripheral zone."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    inside = x**2 + y**2 + z**2 < 0.5
    return np.where(inside, np.where(y > 0.2, 1, 2), 0).astype(np.float32)


def _write(path: Path, pool: npt.NDArray[Any], count: int, rng: np.random.Generator) -> None:
    header: dict[str, Any] = {"descr": pool.dtype.str, "fortran_order": False, "shape": (count, *pool.shape[1:])}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for _ in range(count):
            stream.write(pool[rng.integers(len(pool))].data)
