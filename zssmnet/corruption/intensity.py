"""Step 3: a monotonic intensity map along a cubic Bezier curve, one for the three images together.

The curve leads from (0, 0) to (1, 1) by two random control points in the unit square, along which both
coordinates rise. It is applied as a rising map, or, with y in reverse, as a falling one.

Source: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zssmnet.config import IntensityConfig
from zssmnet.corruption.random import Stream, happens, uniform

# The curve is brought onto an even grid once for each cube, so that a voxel needs two look-ups and no search.
# All float16 values from 1/4 on are points of this grid.
_EVEN_STEPS = 4096


@dataclass(frozen=True)
class IntensityMap:
    """The intensity maps of N cubes.

    Attributes:
        applies_N: whether the cube's intensities are mapped at all, bool.
        rises_N: whether the map rises (else it falls), bool.
        points_N22: the two control points (point, coordinate x or y) in the unit square, float32.
    """

    applies_N: Tensor
    rises_N: Tensor
    points_N22: Tensor


def sample_intensity(keys_N: Tensor, config: IntensityConfig) -> IntensityMap:
    """Draw whether each cube is mapped, which way, and the two control points."""
    return IntensityMap(
        applies_N=happens(keys_N, Stream.INTENSITY, (), config.probability),
        rises_N=happens(keys_N, Stream.INTENSITY_RISES, (), config.rising_probability),
        points_N22=uniform(keys_N, Stream.INTENSITY_POINTS, (2, 2)),
    )


def curve_table(intensity: IntensityMap, table_size: int) -> tuple[Tensor, Tensor]:
    """Points of the maps' curves.

    Args:
        intensity: the maps of N cubes.
        table_size: number of points T, evenly spaced in the curve's parameter.

    Returns:
        x and y, each (N, T), float64. x rises from 0 to 1; y rises from 0 to 1 or falls from 1 to 0.
    """
    first, second = intensity.points_N22.to(torch.float64).unsqueeze(-1).unbind(dim=1)
    t = torch.linspace(0, 1, table_size, dtype=torch.float64, device=first.device)
    curve_N2T = 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3
    # The coordinates rise along the curve; sorting removes what rounding leaves of the contrary.
    x_NT, y_NT = curve_N2T.sort(dim=-1).values.unbind(dim=1)
    return x_NT, torch.where(intensity.rises_N[:, None], y_NT, y_NT.flip(-1))


def apply_intensity(images_NCXYZ: Tensor, intensity: IntensityMap, table_size: int) -> Tensor:
    """Map the intensities of all channels of each cube alike.

    Args:
        images_NCXYZ: images (cube, channel, x, y, z), float32, in 0..1; values outside are taken as 0 or 1.
        intensity: the maps of these N cubes.
        table_size: number of points of the curve, between which the map is linear.

    Returns:
        The mapped images, a new tensor of the same shape and dtype; cubes without a map as they were.
    """
    height_NE = _even_heights(*curve_table(intensity, table_size)).to(images_NCXYZ.dtype)
    climb_NE = torch.diff(height_NE, append=height_NE[:, -1:])

    place_NV = images_NCXYZ.flatten(1).clamp(0, 1).mul_(_EVEN_STEPS)
    step_NV = place_NV.to(torch.int64).clamp_(0, _EVEN_STEPS)  # clamped again: NaN must stay NaN
    mapped_NV = place_NV.sub_(step_NV).mul_(climb_NE.gather(1, step_NV)).add_(height_NE.gather(1, step_NV))
    applies_N = intensity.applies_N.reshape(-1, 1, 1, 1, 1)
    return torch.where(applies_N, mapped_NV.reshape(images_NCXYZ.shape), images_NCXYZ)


def _even_heights(x_NT: Tensor, y_NT: Tensor) -> Tensor:
    """The heights of curves over an even grid of 0..1, linear between the curves' points."""
    grid = torch.linspace(0, 1, _EVEN_STEPS + 1, dtype=x_NT.dtype, device=x_NT.device)
    grid_NE = grid.expand(len(x_NT), -1).contiguous()
    right_NE = torch.searchsorted(x_NT.contiguous(), grid_NE, right=True).clamp_(1, x_NT.shape[1] - 1)
    left_x, right_x = x_NT.gather(1, right_NE - 1), x_NT.gather(1, right_NE)
    left_y, right_y = y_NT.gather(1, right_NE - 1), y_NT.gather(1, right_NE)
    return torch.lerp(left_y, right_y, (grid_NE - left_x) / (right_x - left_x))
