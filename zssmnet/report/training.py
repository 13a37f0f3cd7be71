"""Pictures of a training: loss curves, and cubes corrupted, restored and original."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from zssmnet.data.archive import CHANNELS
from zssmnet.report.palette import CUBE_COLOUR, FAINT, INK, TRAINING_COLOUR, VALIDATION_COLOUR, ZONES, Array
from zssmnet.report.style import heading, legend, new_figure, png_of, without_axes, without_frame

Epoch = tuple[int, float, float, float]


def loss_curves(history: Sequence[Epoch], best_epoch: int, title: str) -> bytes:
    """Draw training and validation loss by epoch, with the learning rate below.

    Args:
        history: epoch, training loss, validation loss (both mean squared errors) and learning rate of each epoch.
        best_epoch: the epoch whose weights were kept; marked if it is in the history.

    Returns:
        A PNG; losses and learning rate have logarithmic scales.
    """
    epochs, training, validation, learning_rates = ([*column] for column in zip(*history, strict=True))
    figure = new_figure(8.0, 4.9)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4.2, 1])
    rates.set_xlabel("epoch", fontsize=9, color=FAINT)
    rates.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    marker = "o" if len(history) < 40 else ""
    for values, colour in ((training, TRAINING_COLOUR), (validation, VALIDATION_COLOUR)):
        losses.plot(epochs, values, marker=marker, color=colour, linewidth=1.6, markersize=3)
    rates.step(epochs, learning_rates, marker=marker, where="mid", color=FAINT, linewidth=1.4, markersize=2.5)
    _style(losses, "mean squared error")
    _style(rates, "learning rate")
    rates.set_ylim(min(learning_rates) / 2, max(learning_rates) * 2)
    rates.set_yticks(sorted({min(learning_rates), max(learning_rates)}))
    rates.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    rates.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    entries = [(TRAINING_COLOUR, "training"), (VALIDATION_COLOUR, "validation")]
    if best_epoch in epochs:
        best = validation[epochs.index(best_epoch)]
        _mark_best(losses, rates, best_epoch, best)
        entries.append((INK, f"best: epoch {best_epoch}, {best:.4g}"))
    heading(figure, title)
    legend(figure, entries)
    return png_of(figure)


def compared_losses(curves: Sequence[tuple[str, Sequence[tuple[int, float]], bool]], title: str) -> bytes:
    """Draw the validation losses of several trainings.

    Args:
        curves: name, epoch and loss of each epoch, and whether it is the stable model; the latest last.

    Returns:
        A PNG; losses have a logarithmic scale. The last five have colours, earlier ones are grey.
    """
    figure = new_figure(8.0, 4.2)
    ax = figure.subplots()
    colours = iter([TRAINING_COLOUR, *(colour for colour, _ in ZONES), CUBE_COLOUR])
    entries = []
    for name, losses, is_stable in reversed(curves):
        colour = VALIDATION_COLOUR if is_stable else next(colours, FAINT)
        epochs, values = zip(*losses, strict=True)
        marker = "o" if len(losses) < 40 else ""
        width, above = (2.2, 3) if is_stable else (1.4, 2)
        ax.plot(epochs, values, marker=marker, color=colour, linewidth=width, markersize=3, zorder=above)
        if colour != FAINT:
            entries.append((colour, f"{name}, stable" if is_stable else name))
    ax.set_xlabel("epoch", fontsize=9, color=FAINT)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    _style(ax, "validation loss")
    heading(figure, title)
    legend(figure, entries)
    return png_of(figure)


def _mark_best(losses: Axes, rates: Axes, epoch: int, loss: float) -> None:
    for ax in (losses, rates):
        ax.axvline(epoch, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    losses.plot([epoch], [loss], "o", color=VALIDATION_COLOUR, markersize=8, markeredgecolor="white")


def _style(ax: Axes, label: str) -> None:
    ax.set_yscale("log")
    ax.set_ylabel(label, fontsize=9, color=FAINT)
    low, high = ax.get_ylim()
    decades = math.log10(high / low)
    # few decades need ticks between the powers of ten as well
    steps = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.8 else tuple(1 + 0.5 * i for i in range(18))
    ax.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    without_frame(ax)


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

    Returns:
        A PNG with a row for each cube and three columns for each image; below what was restored stands its mean
        squared error over the whole cube.
    """
    count, middle = len(target_NCZYX), target_NCZYX.shape[2] // 2
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
            ax.set_title(f"{CHANNELS[channel]}, {_STAGES[stage]}", fontsize=8, color=INK, pad=4)
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
