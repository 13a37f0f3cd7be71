"""The region of interest: the box around the gland, widened by a margin in mm."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A box of voxels, axes (x, y, z): ``start`` belongs to it, ``stop`` does not."""

    start: Triple
    stop: Triple

    @property
    def size(self) -> Triple:
        """Number of voxels on each axis."""
        x, y, z = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def window_ZYX(self) -> tuple[slice, slice, slice]:  # noqa: N802  (axes)
        """What cuts the box out of an array with axes (z, y, x)."""
        x, y, z = map(slice, self.start, self.stop)
        return z, y, x

    def widened(self, margin: Triple, within: Triple) -> "Box":
        """This box with ``margin`` voxels more on every side, clipped to a volume of the size ``within``."""
        starts = [max(0, start - more) for start, more in zip(self.start, margin, strict=True)]
        stops = [min(size, stop + more) for stop, more, size in zip(self.stop, margin, within, strict=True)]
        return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def bounding_box(mask_ZYX: npt.NDArray[Any]) -> Box | None:
    """The smallest box that holds all voxels above 0 of a mask with axes (z, y, x); None if there are none."""
    if not (foreground := mask_ZYX > 0).any():
        return None
    hits = [np.flatnonzero(foreground.any(axis=others)) for others in ((0, 1), (0, 2), (1, 2))]  # of x, y, z
    x, y, z = ((int(hit[0]), int(hit[-1]) + 1) for hit in hits)
    return Box((x[0], y[0], z[0]), (x[1], y[1], z[1]))


def margin_in_voxels(margin_mm: float, spacing_mm: tuple[float, float, float]) -> Triple:
    """The margin, rounded down to whole voxels: 50, 50, 8 for 25 mm at 0.5 x 0.5 x 3.0 mm."""
    x, y, z = (math.floor(margin_mm / spacing + 1e-9) for spacing in spacing_mm)
    return x, y, z
