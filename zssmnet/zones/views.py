"""What the networks see of a case: the middle of the field of view, coarsely, or a box around the gland, finer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import Tensor

from zssmnet.preparation.cropping import Box, Triple, margin_in_voxels
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
HIGHEST_ADC = 3000.0

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """Images on a part of a grid that begins where T2W does.

    Attributes:
        input_CZYX: scaled to 0..1, in float16, with zeros around where the part is smaller than a window.
        region: the part, without these zeros.
        before: zeros before it on x, y, z.
    """

    input_CZYX: Tensor
    grid: Grid
    region: Box
    before: Triple

    def label(self, mask: sitk.Image) -> Tensor:
        """The labels of a mask on T2W's grid in this view (Z, Y, X), uint8."""
        labels_ZYX = sitk.GetArrayFromImage(resample_mask(mask, self.grid))[self.region.window_ZYX]
        padded: Tensor = torch.zeros(self.input_CZYX.shape[1:], dtype=torch.uint8)
        padded[self._inside] = torch.from_numpy(labels_ZYX.astype(np.uint8))
        return padded

    def cropped(self, values_KZYX: Tensor) -> npt.NDArray[np.float32]:
        """What was found for this view, without what was found in the zeros around it."""
        return values_KZYX[:, *self._inside].numpy()

    def in_grid(self, inside_ZYX: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """A mask of the part, in the whole grid."""
        whole = np.zeros(self.grid.size[::-1], bool)
        whole[self.region.window_ZYX] = inside_ZYX
        return whole

    @property
    def _inside(self) -> tuple[slice, slice, slice]:
        x, y, z = (slice(a, a + n) for a, n in zip(self.before, self.region.size, strict=True))
        return z, y, x


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
    scale = np.divide(of.spacing, grid.spacing)
    start = np.clip(np.floor(np.multiply(gland.start, scale)), 0, np.subtract(grid.size, 1)).astype(int).tolist()
    stop = np.clip(np.ceil(np.multiply(gland.stop, scale)), np.add(start, 1), grid.size).astype(int).tolist()
    box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return _view(images, grid, box.widened(margin_in_voxels(MARGIN_MM, spacing_mm), grid.size), window)


def onto_t2w(
    probabilities_KZYX: npt.NDArray[np.float32], view: View, t2w: sitk.Image
) -> tuple[npt.NDArray[np.float32], Box]:
    """Class probabilities on T2W's own grid, interpolated linearly; and the part of it that they are for."""
    scale = np.divide(view.grid.spacing, t2w.GetSpacing())
    start = np.floor(np.multiply(view.region.start, scale)).astype(int)
    stop = np.minimum(np.ceil(np.multiply(view.region.stop, scale)).astype(int), t2w.GetSize())
    box = Box(tuple(start.tolist()), tuple(stop.tolist()))
    reference = placed(np.zeros(box.size[::-1], np.uint8), t2w, grid_of(t2w), box)
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetReferenceImage(reference)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    found = [
        sitk.GetArrayFromImage(resampler.Execute(placed(one, t2w, view.grid, view.region)))
        for one in probabilities_KZYX
    ]
    return np.stack(found), box


def _view(images: Sequence[sitk.Image], grid: Grid, region: Box, window: Triple) -> View:
    arrays = [sitk.GetArrayFromImage(resample_image(image, grid, region)) for image in images]
    channels = [np.clip(one / HIGHEST_ADC, 0, 1) if number == 1 else _scaled(one) for number, one in enumerate(arrays)]
    lacking = [max(0, wanted - there) for wanted, there in zip(window, region.size, strict=True)]
    x, y, z = (lack // 2 for lack in lacking)
    around = [(0, 0), *((lack // 2, lack - lack // 2) for lack in reversed(lacking))]
    inputs = np.pad(np.stack(channels), around).astype(np.float16)
    return View(torch.from_numpy(inputs), grid, region, (x, y, z))


def _scaled(image_ZYX: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = np.percentile(image_ZYX, _TAILS)
    scaled: npt.NDArray[np.float32] = np.clip((image_ZYX - low) / max(float(high - low), 1e-6), 0, 1)
    return scaled
