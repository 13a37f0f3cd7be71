"""What the network makes of corrupted cubes."""

import numpy as np

from zssmnet.errors import InputError
from zssmnet.report.palette import FAINT, IMAGES, INK, Array
from zssmnet.report.style import heading, new_figure, png_of, without_axes

_STAGES = ("corrupted", "restored", "target")
_ROW, _AROUND = 1.2, 1.45  # inches


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
    figure = new_figure(10.8, count * _ROW + _AROUND)
    axes = figure.subplots(count, 11, squeeze=False, width_ratios=[1, 1, 1, 0.1, 1, 1, 1, 0.1, 1, 1, 1])
    for gap in axes[:, 3::4].flat:
        gap.set_axis_off()
    errors_NC = np.mean((restored_NCZYX.astype(np.float64) - target_NCZYX) ** 2, axis=(2, 3, 4))
    for row, channel, stage in np.ndindex(count, 3, 3):
        ax = axes[row, 4 * channel + stage]
        shown = ax.imshow(stages[stage][row, channel, middle], "gray", vmin=0, vmax=1, interpolation="nearest")
        without_axes(ax)
        if row == 0:
            ax.set_title(f"{IMAGES[channel]}, {_STAGES[stage]}", fontsize=8, color=INK, pad=4)
        if stage == 1:
            ax.set_xlabel(f"MSE {errors_NC[row, channel]:.4f}", fontsize=7, color=FAINT, labelpad=2.5)
        if channel == stage == 0:
            ax.set_ylabel(f"cube {row + 1}", fontsize=8, color=INK, labelpad=4)
    bar = figure.colorbar(shown, ax=axes, ticks=[0, 0.5, 1], aspect=30, pad=0.01)
    bar.set_label("scaled intensity (no unit)", fontsize=8, color=FAINT)
    bar.ax.tick_params(labelsize=7, colors=FAINT, length=2, width=0.6)
    heading(figure, title)
    note = "middle slices; MSE: mean squared error over the whole cube"
    figure.supxlabel(note, x=0.99, ha="right", fontsize=8, color=FAINT)
    return png_of(figure)


def _checked_count(corrupted: Array, restored: Array, target: Array) -> int:
    fits = target.ndim == 5 and restored.shape == target.shape and corrupted.ndim == 5
    if not fits or len(target) == 0 or corrupted[:, :3].shape != target.shape:
        raise InputError(
            f"cubes of the shapes {corrupted.shape} (corrupted), {restored.shape} (restored) and {target.shape} "
            "(target) cannot be shown together; each needs the axes (cube, channel, z, y, x)"
        )
    return len(target)
