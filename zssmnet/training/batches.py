"""Cubes where they are used: in the memory of the device, or on disk and read ahead. Either way nothing waits."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol

import torch
from torch import Tensor

from zssmnet.corruption import IMAGE_CHANNELS, swap_x_and_z
from zssmnet.errors import CubesError
from zssmnet.training.dataset import CubeSet

BATCHES_AHEAD = 3
"""Batches that are read, or have been read and wait, while one is used: 12 MB each."""
LARGEST_SHARE = 1 / 3
"""Of a device's free memory that its cubes may take: training needs the rest."""
CHUNK = 64
"""Cubes that are brought into the device's memory at once."""


class Batches(Protocol):
    """Cubes as training and validation take them."""

    device: torch.device

    def __len__(self) -> int:
        """Number of cubes."""

    def batches(self, numbers: Iterable[Tensor]) -> Iterator[Tensor]:
        """For each tensor of n cube numbers (int64, on the CPU) these cubes: (n, 4, Z, Y, X), on the device."""


class StreamedCubes:
    """Cubes that stay on disk: a thread copies the next ones into pinned memory, from where a GPU fetches them."""

    def __init__(self, cubes: CubeSet, device: torch.device) -> None:
        self.device = device
        self._cubes = cubes

    def __len__(self) -> int:
        return len(self._cubes)

    def batches(self, numbers: Iterable[Tensor]) -> Iterator[Tensor]:
        """See `Batches`; an error of reading is raised where the batch would have come."""
        pinned = self.device.type == "cuda"
        ahead: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="cubes") as reader:
            for some in numbers:
                ahead.append(reader.submit(self._cubes.batch, some, pinned=pinned))
                if len(ahead) > BATCHES_AHEAD:
                    yield self._on_device(ahead.popleft())
            yield from map(self._on_device, ahead)

    def _on_device(self, batch: "Future[Tensor]") -> Tensor:
        # PyTorch keeps pinned memory from being used again before the copy is done.
        return batch.result().to(self.device, non_blocking=True)


class ResidentCubes:
    """Cubes in the memory of a device: images in the files' precision (float32 at most), the zone as a byte.

    Raises:
        CubesError: a mask's value is not a whole number of 0 to 255.
    """

    def __init__(self, cubes: CubeSet, device: torch.device) -> None:
        self.device = device
        self._images = torch.empty(len(cubes), IMAGE_CHANNELS, *cubes.size, dtype=_stored_dtype(cubes), device=device)
        self._zones = torch.empty(len(cubes), *cubes.size, dtype=torch.uint8, device=device)
        chunks = torch.split(torch.arange(len(cubes)), CHUNK)
        for numbers, batch in zip(chunks, StreamedCubes(cubes, device).batches(chunks), strict=True):
            chunk = swap_x_and_z(batch)  # they lie here as in the files
            first = int(numbers[0])
            place, zones = slice(first, first + len(chunk)), chunk[:, IMAGE_CHANNELS]
            self._images[place] = chunk[:, :IMAGE_CHANNELS]
            self._zones[place] = zones.nan_to_num().clamp(0, 255)
            if not torch.equal(self._zones[place].to(zones.dtype), zones):
                raise CubesError(
                    f"{cubes.where(first)}: masks hold values that are no whole numbers of 0 to 255; "
                    "generate the cubes anew, or let them stay on disk with cubes_in = 'host'"
                )

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, numbers: Iterable[Tensor]) -> Iterator[Tensor]:
        """See `Batches`: a look-up on the device."""
        for some in numbers:
            chosen = some.to(self.device, non_blocking=True)
            zones = self._zones.index_select(0, chosen).to(self._images.dtype)
            yield swap_x_and_z(torch.cat((self._images.index_select(0, chosen), zones.unsqueeze(1)), dim=1))


def place_cubes(cubes: CubeSet, device: torch.device, where: Literal["auto", "device", "host"]) -> Batches:
    """The cubes where they are best used; on a CPU that is the disk, from which each is read when its turn comes."""
    if where == "auto" and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        where = "device" if resident_bytes(cubes) <= LARGEST_SHARE * free else "host"
    return ResidentCubes(cubes, device) if where == "device" else StreamedCubes(cubes, device)


def resident_bytes(cubes: CubeSet) -> int:
    """Memory that cubes take in a device."""
    return len(cubes) * math.prod(cubes.size) * (IMAGE_CHANNELS * _stored_dtype(cubes).itemsize + 1)


def _stored_dtype(cubes: CubeSet) -> torch.dtype:
    """In what images are kept in a device: corruption computes in float32, so more would be for nothing."""
    return torch.float16 if cubes.dtype == "float16" else torch.float32
