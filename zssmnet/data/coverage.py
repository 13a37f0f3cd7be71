"""Which voxels of T2W's grid an image covers that was brought onto it: elsewhere it has zeros, not measurements."""

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

_TOLERANCE = 1e-3  # voxels


def covered(
    image: sitk.Image, grid: sitk.Image, x: npt.NDArray[Any], y: npt.NDArray[Any], z: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Which places on another grid lie within the box that an image was measured in.

    Args:
        x, y, z: indices of voxels of ``grid``; they are broadcast against each other.
    """
    steps_mm, grid_mm = (np.reshape(one.GetDirection(), (3, 3)) * one.GetSpacing() for one in (image, grid))
    to_image = np.linalg.inv(steps_mm)  # from steps along each axis, as columns
    offsets = to_image @ np.subtract(grid.GetOrigin(), image.GetOrigin())
    inside: npt.NDArray[np.bool_] = np.array(True)
    for row, offset, size in zip(to_image @ grid_mm, offsets, image.GetSize(), strict=True):
        place = row[0] * x + row[1] * y + row[2] * z + offset
        inside = inside & (place >= -0.5 - _TOLERANCE) & (place <= size - 0.5 + _TOLERANCE)
    return inside


def padding(array_ZYX: npt.NDArray[Any], window: tuple[slice, slice, slice]) -> npt.NDArray[np.bool_]:
    """Voxels of a part of a resampled image whose whole row or column of a slice is 0: none of them was measured."""
    z, y, x = window
    is_measured = array_ZYX[z] != 0
    rows, columns = is_measured.any(axis=2, keepdims=True)[:, y], is_measured.any(axis=1, keepdims=True)[:, :, x]
    unmeasured: npt.NDArray[np.bool_] = ~(rows & columns)
    return unmeasured
