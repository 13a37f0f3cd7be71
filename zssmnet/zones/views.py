"""What the networks see of a case: the middle of the field of view, coarsely, or a box around the gland, finer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import Tensor

from zssmnet.preparation.cropping import Box, Triple, margin_in_voxels
from zssmnet.preparation.cubes import HIGHEST_ADC, padded
from zssmnet.preparation.resampling import Grid, grid_of, placed, resample_image, resample_mask, target_grid

FINDER_SPACING_MM = (2.5, 2.5, 4.0)
FINDER_WINDOW = (48, 48, 16)
FIELD_MM = 160.0
"""In plane, around the middle of the image. No gland of 232 real masks, with fields of 180 to 350 mm, reaches further
than 65 mm from it; in whole fields of 350 mm the largest piece found lay 100 mm beside the gland now and then."""
MARGIN_MM = 15.0
"""Around the gland: what the finder misses at its edge lies within."""
_TAILS = (0.5, 99.5)
"""Percentiles that become 0 and 1: vessels and coils are brighter than all else."""


@dataclass(frozen=True)
class View:
    """Images on a part of a grid that begins where T2W does.

    Attributes:
        input_CZYX: scaled to 0..1, in float16, with zeros around where the part is smaller than a window.
        region: the part, without these zeros.
        inside: where the part is in the input (z, y, x).
    """

    input_CZYX: Tensor
    grid: Grid
    region: Box
    inside: tuple[slice, ...]

    def label(self, mask: sitk.Image) -> Tensor:
        """The labels of a mask on T2W's grid in this view (Z, Y, X), uint8."""
        labels_ZYX = sitk.GetArrayFromImage(resample_mask(mask, self.grid))[self.region.window_ZYX]
        whole = torch.zeros(self.input_CZYX.shape[1:], dtype=torch.uint8)
        whole[self.inside] = torch.from_numpy(labels_ZYX.astype(np.uint8))
        return whole

    def cropped(self, values_KZYX: Tensor) -> npt.NDArray[np.float32]:
        """What was found for this view, without what was found in the zeros around it."""
        return values_KZYX[:, *self.inside].numpy()

    def in_grid(self, inside_ZYX: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A mask of the part, in the whole grid."""
        whole = np.zeros(self.grid.size[::-1], bool)
        whole[self.region.window_ZYX] = inside_ZYX
        return whole


def middle_of_field(images: Sequence[sitk.Image]) -> View:
    """All slices of the middle of the field of view, coarsely."""
    grid = target_grid(grid_of(images[0]), FINDER_SPACING_MM)
    (width, height, depth), (x, y) = grid.size, (round(FIELD_MM / spacing) for spacing in FINDER_SPACING_MM[:2])
    middle = Box(
        (max(0, (width - x) // 2), max(0, (height - y) // 2), 0),
        (min(width, (width + x) // 2), min(height, (height + y) // 2), depth),
    )
    return _view(images, grid, middle, FINDER_WINDOW)


def around_gland(
    images: Sequence[sitk.Image], gland: Box, of: Grid, spacing_mm: tuple[float, float, float], window: Triple
) -> View:
    """The box around a gland and 15 mm around it.

    Args:
        gland: box of the gland on the grid ``of``.
    """
    grid = target_grid(grid_of(images[0]), spacing_mm)
    box = _box_on(grid, gland, of).widened(margin_in_voxels(MARGIN_MM, spacing_mm), grid.size)
    return _view(images, grid, box, window)


def onto_t2w(
    probabilities_KZYX: npt.NDArray[np.float32], view: View, t2w: sitk.Image
) -> tuple[npt.NDArray[np.float32], Box]:
    """Class probabilities on T2W's own grid, interpolated linearly; and the part of it that they are for."""
    box = _box_on(grid_of(t2w), view.region, view.grid)
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetReferenceImage(placed(np.zeros(box.size[::-1], np.uint8), t2w, grid_of(t2w), box))
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    found = [
        sitk.GetArrayFromImage(resampler.Execute(placed(one, t2w, view.grid, view.region)))
        for one in probabilities_KZYX
    ]
    return np.stack(found), box


def _box_on(grid: Grid, box: Box, of: Grid) -> Box:
    """The smallest box of a grid that holds a box of another one with the same extent."""
    scale = np.divide(of.spacing, grid.spacing)
    start = np.clip(np.floor(np.multiply(box.start, scale)), 0, np.subtract(grid.size, 1)).astype(int)
    stop = np.clip(np.ceil(np.multiply(box.stop, scale)), start + 1, grid.size).astype(int)
    return Box(tuple(start.tolist()), tuple(stop.tolist()))


def _view(images: Sequence[sitk.Image], grid: Grid, region: Box, window: Triple) -> View:
    arrays = [sitk.GetArrayFromImage(resample_image(image, grid, region)) for image in images]
    channels = [np.clip(one / HIGHEST_ADC, 0, 1) if number == 1 else _scaled(one) for number, one in enumerate(arrays)]
    inputs = padded(np.stack(channels), window[::-1]).astype(np.float16)
    starts = [((n - m) // 2, m) for n, m in zip(inputs.shape[1:], region.size[::-1], strict=True)]
    return View(torch.from_numpy(inputs), grid, region, tuple(slice(start, start + m) for start, m in starts))


def _scaled(image_ZYX: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = np.percentile(image_ZYX, _TAILS)
    scaled: npt.NDArray[np.float32] = np.clip((image_ZYX - low) / max(float(high - low), 1e-6), 0, 1)
    return scaled
