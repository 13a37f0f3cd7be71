"""Which voxels of T2W's grid an image covers that was brought onto it: elsewhere it has zeros, not measurements."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

_TOLERANCE = 1e-3  # voxels


@dataclass(frozen=True)
class FieldOfView:
    """The box that an image was measured in, seen from another grid.

    Attributes:
        matrix, offset: a place on the other grid, in voxels x, y, z, becomes ``matrix @ place + offset`` here.
        size: of the image, in its own voxels.
    """

    matrix: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    size: tuple[int, int, int]

    @classmethod
    def of(cls, image: sitk.Image, grid: sitk.Image) -> "FieldOfView":
        """The field of view of ``image``, seen from ``grid``."""
        to_image = np.linalg.inv(_axes(image))
        offset = to_image @ np.subtract(grid.GetOrigin(), image.GetOrigin())
        return cls(to_image @ _axes(grid), offset, image.GetSize())

    def covers(self, x: npt.NDArray[Any], y: npt.NDArray[Any], z: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which places lie inside; the arrays of indices are broadcast against each other."""
        inside: npt.NDArray[np.bool_] = np.array(True)
        for row, offset, size in zip(self.matrix, self.offset, self.size, strict=True):
            place = row[0] * x + row[1] * y + row[2] * z + offset
            inside = inside & (place >= -0.5 - _TOLERANCE) & (place <= size - 0.5 + _TOLERANCE)
        return inside


def _axes(image: sitk.Image) -> npt.NDArray[np.float64]:
    """A step along each axis, in mm, as columns."""
    steps: npt.NDArray[np.float64] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    return steps


def padding(array_ZYX: npt.NDArray[Any], window: tuple[slice, slice, slice]) -> npt.NDArray[np.bool_]:
    """Voxels of a part of a resampled image whose whole row or column of a slice is 0: none of them was measured."""
    z, y, x = window
    is_measured = array_ZYX[z] != 0
    rows, columns = is_measured.any(axis=2, keepdims=True)[:, y], is_measured.any(axis=1, keepdims=True)[:, :, x]
    unmeasured: npt.NDArray[np.bool_] = ~(rows & columns)
    return unmeasured
