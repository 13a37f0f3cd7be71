"""The target grid, and resampling only the part of it that is kept.

A case keeps its origin and direction, so each axis can be resampled by indices alone: voxel ``i`` of the target
lies at ``i * target spacing / spacing`` of the source. All triples are (x, y, z).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.examination import onto_grid
from zssmnet.data.image_io import array_of, image_like
from zssmnet.preparation.bspline import interpolate
from zssmnet.preparation.cropping import Box, Triple


@dataclass(frozen=True)
class Grid:
    """Size in voxels and spacing in mm of a volume whose origin and direction are known elsewhere."""

    size: Triple
    spacing: tuple[float, float, float]


def grid_of(image: sitk.Image) -> Grid:
    """The image's own grid."""
    return Grid(image.GetSize(), image.GetSpacing())


def target_grid(source: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """The grid of the same extent whose spacing comes nearest to ``spacing_mm``.

    The size is rounded (half to even) and the spacing then really used keeps the extent.
    """
    sizes, spacings = [], []
    for size, spacing, target in zip(source.size, source.spacing, spacing_mm, strict=True):
        new_size = max(1, round(size * spacing / target))
        sizes.append(new_size)
        spacings.append(spacing if new_size == size else size * spacing / new_size)
    return Grid((sizes[0], sizes[1], sizes[2]), (spacings[0], spacings[1], spacings[2]))


def resample_image(image: sitk.Image, target: Grid, region: Box) -> sitk.Image:
    """A region of the image on the target grid, float32, by B-spline of order 3; 0 outside the image.

    Args:
        image: the whole image, of any scalar pixel type.
        target: the grid of the whole image after resampling.
        region: the box of ``target`` to compute.
    """
    source = grid_of(image)
    if source.size == target.size:  # a B-spline of order 3 returns its samples, to 1e-7 of the value range
        values_ZYX: npt.NDArray[Any] = array_of(image)[region.window_ZYX]
    elif _reaches_the_edge(region, source, target):
        whole = _resample(image_like(array_of(image).astype(np.float32), image), target, sitk.sitkBSpline3)
        values_ZYX = array_of(whole)[region.window_ZYX]
    else:
        x, y, z = (new / old for old, new in zip(source.spacing, target.spacing, strict=True))
        values_ZYX = interpolate(array_of(image), (x, y, z), region)
    return placed(values_ZYX.astype(np.float32), image, target, region)


def resample_mask(mask: sitk.Image, target: Grid) -> sitk.Image:
    """The mask on the target grid by nearest neighbour, its pixel type kept; 0 outside the mask.

    All of it: where a voxel lies halfway between two others (upsampling by 2), rounding decides on the nearest, and
    only the same computation rounds alike.
    """
    return mask if grid_of(mask).size == target.size else _resample(mask, target, sitk.sitkNearestNeighbor)


def crop_mask(mask: sitk.Image, region: Box) -> sitk.Image:
    """A region of a mask, with its place in space."""
    return placed(array_of(mask)[region.window_ZYX].copy(), mask, grid_of(mask), region)


def _reaches_the_edge(region: Box, source: Grid, target: Grid) -> bool:
    """Whether voxels of the region lie exactly on the image's edge, half a voxel from the last centre.

    So it is where an axis is upsampled by 2, 4, ...: rounding then decides whether they are inside, and only the same
    computation as that of the whole volume rounds alike.
    """
    return any(
        new_size % (2 * size) == 0 and stop > new_size - new_size // size // 2
        for stop, size, new_size in zip(region.stop, source.size, target.size, strict=True)
    )


def _resample(image: sitk.Image, target: Grid, interpolator: int) -> sitk.Image:
    grid = placed(np.empty(target.size[::-1], np.uint8), image, target, Box((0, 0, 0), target.size))
    return onto_grid(image, grid, interpolator)


def placed(values_ZYX: npt.NDArray[Any], whole: sitk.Image, grid: Grid, region: Box) -> sitk.Image:
    """An image of a region of a grid that begins where ``whole`` does."""
    result = sitk.GetImageFromArray(values_ZYX)
    direction = np.reshape(whole.GetDirection(), (3, 3))
    start_mm = np.multiply(region.start, grid.spacing)
    result.SetOrigin((np.asarray(whole.GetOrigin()) + direction @ start_mm).tolist())
    result.SetSpacing(grid.spacing)
    result.SetDirection(whole.GetDirection())
    return result
