"""Cubes of several files as one sequence, memory-mapped: host memory does not grow with their number."""

import math
import mmap
import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zssmnet.corruption import IMAGE_CHANNELS, swap_x_and_z
from zssmnet.data.splits import SUBSETS, TRAINING_SUBSETS, checked_subsets
from zssmnet.errors import CubesError
from zssmnet.mnet.network import SHRINKAGE
from zssmnet.preparation.cubes import find_cubes, open_cubes
from zssmnet.storage import Storage, open_storage

MAPPED_BYTES = 2**30
"""So much of the files is read before their pages are given back: they would count as memory of this process."""
CHECKED_CUBES = 16
"""Of each side, read before training."""


class CubeSet:
    """Cubes of one or more files in a row.

    Args:
        files: arrays with axes (cube, channel, x, y, z), of one size and dtype.

    Attributes:
        size: size of a cube x, y, z in voxels.
        dtype: of the files.
    """

    def __init__(self, files: Sequence[npt.NDArray[Any]]) -> None:
        self.files = [file for file in files if len(file)]
        self.size: tuple[int, int, int] = files[0].shape[2:] if files else (0, 0, 0)
        self.dtype = files[0].dtype if files else np.dtype("float32")
        self._first = np.cumsum([0, *(len(file) for file in self.files)])
        self._mapped = 0

    def __len__(self) -> int:
        return int(self._first[-1])

    def batch(self, indices: Tensor, *, pinned: bool = False) -> Tensor:
        """The cubes with these numbers: (N, 4, Z, Y, X), in the files' dtype, on the CPU.

        Args:
            indices: int64, on the CPU.
            pinned: whether to use pinned memory, which a GPU copies without the host.

        Returns:
            A view of memory in which they lie as in the files, so that turning the axes copies nothing.
        """
        rows = indices.numpy()
        files = np.searchsorted(self._first, rows, side="right") - 1
        kind = torch.from_numpy(np.empty(0, self.dtype)).dtype
        batch = torch.empty(len(rows), IMAGE_CHANNELS + 1, *self.size, dtype=kind, pin_memory=pinned)
        for place, file, row in zip(batch.numpy(), files, rows, strict=True):
            place[...] = self.files[file][row - self._first[file]]
        self._give_pages_back(batch.nbytes)
        return swap_x_and_z(batch)

    def spread(self, count: int) -> Tensor:
        """Numbers of some cubes, spread over all."""
        return torch.linspace(0, len(self) - 1, min(count, len(self))).round().long()

    def where(self, number: int) -> str:
        """The file of the cube with this number."""
        file = int(np.searchsorted(self._first, number, side="right")) - 1
        return str(getattr(self.files[file], "filename", f"file {file}"))

    def first_not_finite(self) -> str | None:
        """A message on the first cube with NaN or infinity, if there is one; all of them are read."""
        for file, first in zip(self.files, self._first, strict=False):
            for index, cube in enumerate(file):
                if count := int(np.count_nonzero(~np.isfinite(cube))):
                    where = self.where(first)
                    return f"{where}: cube {index} has {count} values that are not finite (NaN or infinite)"
        return None

    def _give_pages_back(self, read: int) -> None:
        """The system keeps the files' pages in its cache as long as it has room, but they are not ours any more."""
        self._mapped += read
        if self._mapped < MAPPED_BYTES:
            return
        self._mapped = 0
        for file in self.files:
            mapping: object = file.base
            if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                mapping.madvise(mmap.MADV_DONTNEED)


class CubesDataset(Dataset[Tensor]):
    """Cubes of a folder as a PyTorch data set; an item is one cube (4, Z, Y, X), float32.

    Channels are T2W, ADC and DWI in 0..1 and the zonal mask (0 background, 1 peripheral zone, 2 the rest of the gland).
    A slice gives its cubes as one tensor (N, 4, Z, Y, X). Files stay on disk, memory-mapped, so it can be used with any
    number of a DataLoader's workers.

    Args:
        path: folder or ``s3://bucket/prefix`` of the six files of cubes.
        subsets: which of the subsets 0 to 5; by default those of training, 0 to 4. 5 is for validation.

    Raises:
        CubesError: no such subset, no cubes there, a file that is not one of cubes, or cubes of different sizes.
    """

    def __init__(self, path: str | os.PathLike[str], subsets: Sequence[int] = TRAINING_SUBSETS) -> None:
        self._opened = path, checked_subsets(subsets)
        self._cubes = CubeSet(list(_open_subsets(open_storage(path), self._opened[1]).values()))

    def __reduce__(self) -> tuple[type["CubesDataset"], tuple[str | os.PathLike[str], Sequence[int]]]:
        return type(self), self._opened  # a worker that is spawned opens the files, instead of getting their content

    def __len__(self) -> int:
        return len(self._cubes)

    def __getitem__(self, index: int | slice) -> Tensor:
        numbers = range(len(self))
        if isinstance(index, slice):
            return self._cubes.batch(torch.tensor(numbers[index], dtype=torch.int64)).float()
        if not -len(self) <= (number := operator.index(index)) < len(self):
            raise IndexError(f"cube {number} of {len(self)}")
        return self._cubes.batch(torch.tensor([numbers[number]]))[0].float()


def open_training_data(cubes: Storage, batch_size: int) -> tuple[CubeSet, CubeSet]:
    """The training cubes (subsets 0 to 4) and the validation cubes (subset 5) in a folder.

    Raises:
        CubesError: a file is missing or not what it should be, sizes differ, there are too few cubes or cubes too
            small for the network or not scaled as `generate_cubes` does it, or all validation cubes are constant.
    """
    files = _open_subsets(cubes, SUBSETS)
    (*_, validation_key), (*for_training, for_validation) = files, files.values()
    training, validation = CubeSet(for_training), CubeSet([for_validation])
    if len(training) < batch_size:
        raise CubesError(
            f"{cubes.uri}: {len(training)} training cubes do not fill one batch of {batch_size}; "
            "choose a smaller --batch-size or add cases"
        )
    if not len(validation):
        raise CubesError(
            f"{cubes.uri}: {validation_key} holds no cube, so nothing can be validated; "
            "add cases, or give a splits.json with --splits-path"
        )
    if all(image.min() == image.max() for cube in for_validation for image in cube[:IMAGE_CHANNELS]):
        raise CubesError(
            f"{cubes.where(validation_key)}: all validation cubes are constant, so nothing can be validated; "
            "look at the prepared cases, and generate the cubes anew"
        )
    for side in (training, validation):
        for number in side.spread(CHECKED_CUBES):
            low, high = (float(one) for one in side.batch(number[None])[:, :IMAGE_CHANNELS].aminmax())
            if -math.inf < low < 0 or 1 < high < math.inf:
                where = side.where(int(number))
                raise CubesError(f"{where}: images of {low:g} to {high:g}, not scaled to 0..1; generate the cubes anew")
    return training, validation


def _open_subsets(cubes: Storage, subsets: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """The files of these subsets by their keys, in order; of cubes of one size and dtype, large enough for MNet."""
    keys = find_cubes(cubes)
    files = {keys[subset]: open_cubes(cubes.local(keys[subset])) for subset in subsets}
    (first, one), *others = files.items()
    for key, other in others:
        if (other.shape[2:], other.dtype) != (one.shape[2:], one.dtype):
            raise CubesError(
                f"{cubes.where(key)}: cubes of {_kind(other)}, but those of {first} are of {_kind(one)}; "
                "generate the cubes of all six subsets anew"
            )
    x, y, z = one.shape[2:]
    if min(x, y, z) < 1 or z * (x // SHRINKAGE) * (y // SHRINKAGE) < 2:
        raise CubesError(
            f"{cubes.uri}: cubes of {x} x {y} x {z} voxels are too small for MNet, which halves x and y four times; "
            f"generate cubes of at least {SHRINKAGE} x {SHRINKAGE} x 2 voxels"
        )
    return files


def _kind(file: npt.NDArray[Any]) -> str:
    x, y, z = file.shape[2:]
    return f"{x} x {y} x {z} voxels in {file.dtype}"
