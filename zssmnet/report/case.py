"""A prepared case at a glance."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from zssmnet.preparation.cropping import Triple
from zssmnet.preparation.cubes import HIGHEST_ADC, Spacing
from zssmnet.report.palette import CUBE_COLOUR, FAINT, INK, ZONES, Array
from zssmnet.report.style import heading, legend, new_figure, outline_zones, png_of
from zssmnet.report.thumbnails import shown_slices

_HEADINGS = ("T2W", f"ADC  (0 to {HIGHEST_ADC:.0f} µm²/s)", "DWI, high b-value")
_PANEL = 2.35  # inches
_AROUND = (0.85, 1.75)  # inches beside and above the panels, for heading, legend and labels


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
        A PNG of three rows (slices, towards the head above) and three columns (T2W, ADC, DWI).
    """
    windows = (_window(images[0]), (0.0, HIGHEST_ADC), _window(images[2]))
    depth, rows, columns = mask_ZYX.shape
    extent = (0.0, columns * spacing_mm[0], rows * spacing_mm[1], 0.0)
    figure = new_figure(3 * _PANEL + _AROUND[0], 3 * _PANEL * extent[2] / extent[1] + _AROUND[1])
    axes = figure.subplots(3, 3, sharex=True, sharey=True, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    starts = [(int(x), int(y), int(z)) for x, y, z in cube_starts_xyz]
    for row, z in enumerate(shown_slices(mask_ZYX)):
        for ax, volume, (low, high) in zip(axes[row], images, windows, strict=True):
            ax.imshow(volume[z], "gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
            outline_zones(ax, mask_ZYX[z], extent)
            ax.set_xlabel("x (mm)", fontsize=8, color=FAINT)
            ax.set_ylabel(f"slice {z + 1} of {depth}\ny (mm)", fontsize=8, color=FAINT, linespacing=1.4)
            ax.label_outer(remove_inner_ticks=True)
            ax.tick_params(labelsize=7, colors=FAINT, length=2.5, width=0.6)
            ax.spines[:].set_visible(False)
        _outline_cubes(axes[row][0], starts, cube_size_xyz, spacing_mm, z)
    axes[0][0].set_xticks(np.arange(0, extent[1] - 8, 20))  # the last label keeps off the next panel's first
    for ax, name in zip(axes[0], _HEADINGS, strict=True):
        ax.set_title(name, fontsize=9, color=INK, pad=5)
    heading(figure, title)
    size = " × ".join(str(n) for n in cube_size_xyz)
    cubes = (CUBE_COLOUR, f"cubes of {size} voxels through the slice ({len(starts)} in the case)")
    legend(figure, [*ZONES, cubes] if starts else ZONES)
    return png_of(figure)


def _window(volume_ZYX: Array) -> tuple[float, float]:
    """Grey levels that leave a few outliers saturated."""
    low, high = np.percentile(volume_ZYX, (0.5, 99.5))
    return float(low), max(float(high), float(low) + 1e-6)


def _outline_cubes(ax: Axes, starts_xyz: list[Triple], size_xyz: Triple, spacing_mm: Spacing, slice_index: int) -> None:
    width, height = size_xyz[0] * spacing_mm[0], size_xyz[1] * spacing_mm[1]
    for x, y, z in starts_xyz:
        if z <= slice_index < z + size_xyz[2]:
            corner = (x * spacing_mm[0], y * spacing_mm[1])
            ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=CUBE_COLOUR, linewidth=0.7))
