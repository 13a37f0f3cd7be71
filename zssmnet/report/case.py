"""A prepared case at a glance."""

from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from zssmnet.preparation.cropping import Triple
from zssmnet.preparation.cubes import HIGHEST_ADC, Spacing
from zssmnet.report.palette import CUBE_COLOUR, FAINT, INK, ZONES, Array
from zssmnet.report.style import heading, legend, new_sheet, outline_zones, png_of, put_image
from zssmnet.report.thumbnails import shown_slices

_HEADINGS = ("T2W", f"ADC  (0 to {HIGHEST_ADC:.0f} µm²/s)", "DWI, high b-value")
_PANEL, _GAP = 2.35, 0.08  # inches
_LEFT, _TOP, _BELOW = 0.35, 0.8, 0.4  # inches for the slices' numbers, for heading and titles, for the legend
_BAR_MM = 20


def case_montage(
    images: Sequence[Array],
    mask_ZYX: Array,
    cube_starts_xyz: Sequence[Triple] | Array,
    cube_size_xyz: Triple,
    spacing_mm: Spacing,
    title: str,
) -> bytes:
    """Draw three slices through the gland, with its zones, and the cubes cut from the case on T2W.

    Args:
        images: T2W, ADC (um^2/s) and DWI in this order, each with axes (z, y, x).
        mask_ZYX: zonal mask of the same shape, labels 0, 1, 2.
        cube_starts_xyz: first voxels x, y, z of the cubes; a slice shows those cubes that contain it.
        cube_size_xyz: voxels of a cube along x, y, z.
        spacing_mm: voxel size x, y, z.

    Returns:
        A PNG of three rows (slices, towards the head above) and three columns (T2W, ADC, DWI), with a scale bar.
    """
    windows = (_window(images[0]), (0.0, float(HIGHEST_ADC)), _window(images[2]))
    depth, rows, columns = mask_ZYX.shape
    inches = _PANEL / (columns * spacing_mm[0])  # a mm
    size = (_PANEL, rows * spacing_mm[1] * inches)
    ax, figure = new_sheet(_LEFT + 3 * (_PANEL + _GAP), _TOP + 3 * (size[1] + _GAP) + _BELOW)
    starts = [(int(x), int(y), int(z)) for x, y, z in cube_starts_xyz]
    for row, z in enumerate(shown_slices(mask_ZYX)):
        left, top = _LEFT, _TOP + row * (size[1] + _GAP)
        middle, name = top + size[1] / 2, f"slice {z + 1} of {depth}"
        ax.text(left - 0.07, middle, name, fontsize=8, color=FAINT, ha="right", va="center", rotation=90)
        for image, window in zip(images, windows, strict=True):
            put_image(ax, image[z], (left, top), size, window, "bilinear")
            outline_zones(ax, mask_ZYX[z], (left, top), size)
            left += _PANEL + _GAP
        for x, y, first in starts:
            if first <= z < first + cube_size_xyz[2]:
                corner = (_LEFT + x * spacing_mm[0] * inches, top + y * spacing_mm[1] * inches)
                extent = (cube_size_xyz[0] * spacing_mm[0] * inches, cube_size_xyz[1] * spacing_mm[1] * inches)
                ax.add_patch(Rectangle(corner, *extent, fill=False, edgecolor=CUBE_COLOUR, linewidth=0.7))
    for column, name in enumerate(_HEADINGS):
        ax.text(_LEFT + column * (_PANEL + _GAP) + _PANEL / 2, _TOP - 0.07, name, fontsize=9, color=INK, ha="center")
    right, below = ax.get_xlim()[1] - _GAP, ax.get_ylim()[0] - 0.19
    left = right - _BAR_MM * inches
    ax.plot([left, right], [below, below], color=INK, linewidth=1.5, solid_capstyle="butt")
    ax.text(left - 0.06, below, f"{_BAR_MM} mm", fontsize=8, color=INK, ha="right", va="center")
    heading(figure, title)
    cubes = (CUBE_COLOUR, f"cubes of {' × '.join(map(str, cube_size_xyz))} voxels ({len(starts)} in the case)")
    legend(figure, [*ZONES, cubes] if starts else ZONES)
    return png_of(figure)


def _window(volume_ZYX: Array) -> tuple[float, float]:
    """Grey levels that leave a few outliers saturated."""
    low, high = np.percentile(volume_ZYX, (0.5, 99.5))
    return float(low), max(float(high), float(low) + 1e-6)
