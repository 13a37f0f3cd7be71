"""The target grid, and resampling only the part of it that is kept.

A case keeps its origin and direction, so each axis can be resampled by indices alone: voxel ``i`` of the target
lies at ``i * target spacing / spacing`` of the source. All triples are (x, y, z).
"""

import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from zssmnet.roi import Box, Triple

BSPLINE_MARGIN = 12
"""Native voxels kept around a region before B-spline interpolation: the spline's coefficients forget what lies
further away (largest difference found: 7e-8 of the value range)."""
NEAREST_MARGIN = 1
SMALLEST_SPLINE_SIZE = 4
"""Voxels an axis needs for a B-spline of order 3."""

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


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
    return _resample_region(image, target, region, sitk.sitkBSpline3, BSPLINE_MARGIN, sitk.sitkFloat32)


def resample_mask(mask: sitk.Image, target: Grid, region: Box) -> sitk.Image:
    """A region of the mask on the target grid by nearest neighbour, its pixel type kept; 0 outside the mask."""
    return _resample_region(mask, target, region, sitk.sitkNearestNeighbor, NEAREST_MARGIN, mask.GetPixelID())


def target_box(native: Box, source: Grid, target: Grid) -> Box:
    """The box of the target grid that holds all voxels which a native box can reach by nearest neighbour."""
    starts, stops = [], []
    for axis in range(3):
        ratio = source.spacing[axis] / target.spacing[axis]
        starts.append(max(0, math.floor((native.start[axis] - 1) * ratio)))
        stops.append(min(target.size[axis], math.ceil((native.stop[axis] + 1) * ratio) + 1))
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def _resample_region(
    image: sitk.Image, target: Grid, region: Box, interpolator: int, margin: int, pixel_type: int
) -> sitk.Image:
    source = grid_of(image)
    if source.size == target.size:  # a B-spline of order 3 returns its samples, to 1e-7 of the value range
        result = _crop(image, region)
        result = result if result.GetPixelID() == pixel_type else _cast(result, pixel_type)
    else:
        result = _interpolated(image, source, target, region, interpolator, margin, pixel_type)
    direction = np.reshape(image.GetDirection(), (3, 3))
    start_mm = np.multiply(region.start, target.spacing)
    result.SetOrigin((np.asarray(image.GetOrigin()) + direction @ start_mm).tolist())
    result.SetSpacing(target.spacing)
    result.SetDirection(image.GetDirection())
    return result


def _interpolated(
    image: sitk.Image, source: Grid, target: Grid, region: Box, interpolator: int, margin: int, pixel_type: int
) -> sitk.Image:
    native = _native_box(region, source, target, margin)
    crop = _cast(_crop(image, native), pixel_type)
    crop.SetOrigin(np.multiply(native.start, source.spacing).tolist())
    crop.SetSpacing(source.spacing)
    crop.SetDirection(_IDENTITY)
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)  # cases run side by side: one thread each
    resampler.SetInterpolator(interpolator)
    resampler.SetSize(region.size)
    resampler.SetOutputSpacing(target.spacing)
    resampler.SetOutputOrigin(np.multiply(region.start, target.spacing).tolist())
    resampler.SetOutputDirection(_IDENTITY)
    resampler.SetDefaultPixelValue(0)
    resampler.SetOutputPixelType(pixel_type)
    return resampler.Execute(crop)


def _native_box(region: Box, source: Grid, target: Grid, margin: int) -> Box:
    starts, stops = [], []
    for axis in range(3):
        ratio = target.spacing[axis] / source.spacing[axis]
        starts.append(max(0, math.floor(region.start[axis] * ratio) - margin))
        stops.append(min(source.size[axis], math.ceil((region.stop[axis] - 1) * ratio) + margin + 1))
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def _crop(image: sitk.Image, box: Box) -> sitk.Image:
    cropper = sitk.ExtractImageFilter()
    cropper.SetNumberOfThreads(1)
    cropper.SetSize(box.size)
    cropper.SetIndex(box.start)
    return cropper.Execute(image)


def _cast(image: sitk.Image, pixel_type: int) -> sitk.Image:
    caster = sitk.CastImageFilter()
    caster.SetNumberOfThreads(1)
    caster.SetOutputPixelType(pixel_type)
    return caster.Execute(image)
