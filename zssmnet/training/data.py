"""Cubes of several files as one sequence, memory-mapped: host memory does not grow with their number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zssmnet.cubes import find_cubes, open_cubes
from zssmnet.errors import CubesError
from zssmnet.splits import TRAINING_SUBSETS, VALIDATION_SUBSET
from zssmnet.storage import Storage


class CubeSet:
    """Cubes of one or more files in a row.

    Args:
        files: arrays with axes (cube, channel, x, y, z), of one size and number type.
    """

    def __init__(self, files: Sequence[npt.NDArray[Any]]) -> None:
        self.files = [file for file in files if len(file)]
        self._first = np.cumsum([0, *(len(file) for file in self.files)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def batch(self, indices: Tensor) -> Tensor:
        """The cubes with these numbers: (N, 4, X, Y, Z), in the files' number type, on the CPU."""
        rows = indices.numpy()
        files = np.searchsorted(self._first, rows, side="right") - 1
        cubes = [self.files[file][row - self._first[file]] for file, row in zip(files, rows, strict=True)]
        return torch.from_numpy(np.stack(cubes))


def open_training_data(cubes: Storage, batch_size: int) -> tuple[CubeSet, CubeSet]:
    """The training cubes (subsets 0 to 4) and the validation cubes (subset 5) in a folder.

    Raises:
        CubesError: a file is missing or not what it should be, sizes differ, or there are too few cubes.
    """
    by_subset = find_cubes(cubes)
    files = {subset: open_cubes(cubes.local(key)) for subset, key in by_subset.items()}
    if len(shapes := {(file.shape[2:], file.dtype.str) for file in files.values()}) > 1:
        raise CubesError(f"{cubes.uri}: files of cubes of different sizes or types: {sorted(map(str, shapes))}")
    training = CubeSet([files[subset] for subset in TRAINING_SUBSETS])
    validation = CubeSet([files[VALIDATION_SUBSET]])
    if len(training) < batch_size:
        raise CubesError(
            f"{cubes.uri}: {len(training)} training cubes do not fill one batch of {batch_size}; "
            "choose a smaller --batch-size or add cases"
        )
    if not len(validation):
        raise CubesError(
            f"{cubes.uri}: {by_subset[VALIDATION_SUBSET]} holds no cube, so nothing can be validated; "
            "add cases, or give a splits.json with --splits-path"
        )
    return training, validation
