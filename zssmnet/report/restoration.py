"""What the network makes of corrupted cubes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from zssmnet.errors import InputError
from zssmnet.report.palette import FAINT, IMAGES, INK, Array
from zssmnet.report.style import heading, new_figure, png_of, without_axes

_STAGES = ("corrupted", "restored", "target")
_ROW, _TOP, _BOTTOM = 1.2, 0.98, 0.5  # inches
_LEFT, _RIGHT = 0.05, 0.925  # of the width


def restoration_triptych(
    corrupted_NCZYX: Array,
    restored_NCZYX: Array,
    target_NCZYX: Array,
    title: str,
) -> bytes:
    """Draw the middle slices of cubes: corrupted, restored, and as they were, on one grey scale from 0 to 1.

    Args:
        corrupted_NCZYX: what the network saw; the first three channels, T2W, ADC and DWI, are shown.
        restored_NCZYX: what it made of that, three channels, 0..1.
        target_NCZYX: the uncorrupted images, three channels, 0..1.
        title: heading.

    Returns:
        A PNG with a row for each cube and three columns for each image; below what was restored stands its mean
        squared error over the whole cube.

    Raises:
        InputError: no cubes, or shapes that do not fit.
    """
    count = _checked_count(corrupted_NCZYX, restored_NCZYX, target_NCZYX)
    middle = target_NCZYX.shape[2] // 2
    stages = (corrupted_NCZYX, restored_NCZYX, target_NCZYX)
    height = _TOP + count * _ROW + _BOTTOM
    figure = new_figure(10.8, height)
    grid = GridSpec(
        count,
        11,
        figure,
        left=_LEFT,
        right=_RIGHT,
        top=1 - _TOP / height,
        bottom=_BOTTOM / height,
        wspace=0.05,
        hspace=0.16,
        width_ratios=[1, 1, 1, 0.12, 1, 1, 1, 0.12, 1, 1, 1],
    )
    errors_NC = np.mean((restored_NCZYX.astype(np.float64) - target_NCZYX) ** 2, axis=(2, 3, 4))
    for row, channel, stage in np.ndindex(count, 3, 3):
        ax = figure.add_subplot(grid[row, 4 * channel + stage])
        ax.imshow(stages[stage][row, channel, middle], "gray", vmin=0, vmax=1, interpolation="nearest")
        without_axes(ax)
        if row == 0:
            ax.set_title(_STAGES[stage], fontsize=8, color=FAINT, pad=4)
        if stage == 1:
            ax.set_xlabel(f"MSE {errors_NC[row, channel]:.4f}", fontsize=7, color=FAINT, labelpad=2.5)
        if channel == stage == 0:
            ax.set_ylabel(f"cube {row + 1}", fontsize=8, color=INK, labelpad=4)
    _write_around(figure, title, _centres(figure, grid))
    return png_of(figure)


def _checked_count(corrupted: Array, restored: Array, target: Array) -> int:
    fits = target.ndim == 5 and restored.shape == target.shape and corrupted.ndim == 5
    if not fits or len(target) == 0 or corrupted[:, :3].shape != target.shape:
        raise InputError(
            f"cubes of the shapes {corrupted.shape} (corrupted), {restored.shape} (restored) and {target.shape} "
            "(target) cannot be shown together; each needs the axes (cube, channel, z, y, x)"
        )
    return len(target)


def _centres(figure: Figure, grid: GridSpec) -> list[float]:
    """Where, of the width, the middles of the three images' columns lie."""
    boxes = [grid[0, 4 * channel + 1].get_position(figure) for channel in range(3)]
    return [float(box.x0 + box.x1) / 2 for box in boxes]


def _write_around(figure: Figure, title: str, centres: list[float]) -> None:
    """Heading and images' names above, grey scale at the side."""
    height = figure.get_figheight()
    heading(figure, title, _LEFT)
    for centre, name in zip(centres, IMAGES, strict=True):
        figure.text(centre, 1 - 0.65 / height, name, fontsize=10, color=INK, weight="bold", ha="center", va="center")
    bottom, top = _BOTTOM / height, 1 - _TOP / height
    _grey_scale(figure.add_axes((_RIGHT + 0.018, bottom, 0.011, top - bottom)))
    note = "middle slices; MSE: mean squared error over the whole cube"
    figure.text(_RIGHT, 0.12 / height, note, fontsize=8, color=FAINT, ha="right")


def _grey_scale(ax: Axes) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "gray"), cax=ax, ticks=[0, 0.5, 1])
    bar.set_label("scaled intensity (no unit)", fontsize=8, color=FAINT)
    ax.spines[:].set_visible(False)
    ax.tick_params(labelsize=7, colors=FAINT, length=2, width=0.6)
