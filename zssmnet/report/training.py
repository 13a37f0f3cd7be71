"""Pictures of a training: loss curves, and cubes corrupted, restored and original."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from zssmnet.data.archive import CHANNELS
from zssmnet.report.palette import CUBE_COLOUR, FAINT, INK, TRAINING_COLOUR, VALIDATION_COLOUR, ZONES, Array
from zssmnet.report.style import heading, legend, new_figure, new_sheet, png_of, put_image, without_frame

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
    entries = [(TRAINING_COLOUR, "training"), (VALIDATION_COLOUR, "validation")]
    for values, (colour, _) in zip((training, validation), entries, strict=True):
        losses.plot(epochs, values, marker=_marker(epochs), color=colour, linewidth=1.6, markersize=3)
    rates.step(epochs, learning_rates, marker=_marker(epochs), where="mid", color=FAINT, linewidth=1.4, markersize=2.5)
    _style(losses, "mean squared error")
    _style(rates, "learning rate")
    _label_epochs(rates)
    rates.set_ylim(min(learning_rates) / 2, max(learning_rates) * 2)
    rates.set_yticks(sorted({min(learning_rates), max(learning_rates)}))
    rates.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    rates.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    if best_epoch in epochs:
        best = validation[epochs.index(best_epoch)]
        for ax in (losses, rates):
            ax.axvline(best_epoch, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        losses.plot([best_epoch], [best], "o", color=VALIDATION_COLOUR, markersize=8, markeredgecolor="white")
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
        width, above = (2.2, 3) if is_stable else (1.4, 2)
        ax.plot(epochs, values, marker=_marker(epochs), color=colour, linewidth=width, markersize=3, zorder=above)
        if colour != FAINT:
            entries.append((colour, f"{name}, stable" if is_stable else name))
    _style(ax, "validation loss")
    _label_epochs(ax)
    heading(figure, title)
    legend(figure, entries)
    return png_of(figure)


def _marker(epochs: Sequence[int]) -> str:
    return "o" if len(epochs) < 40 else ""


def _label_epochs(ax: Axes) -> None:
    ax.set_xlabel("epoch", fontsize=9, color=FAINT)
    ax.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))


def _style(ax: Axes, label: str) -> None:
    ax.set_yscale("log")
    ax.set_ylabel(label, fontsize=9, color=FAINT)
    low, high = ax.get_ylim()
    decades = math.log10(high / low)
    steps = (1.0,) if decades > 3 else (1.0, 2.0, 5.0)
    # a narrow range has too few such numbers
    ax.yaxis.set_major_locator(LogLocator(subs=steps, numticks=12) if decades > 1.2 else MaxNLocator(7))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    without_frame(ax)


_STAGES = ("corrupted", "restored", "target")
# inches: a slice, between slices, from row to row, from image to image
_SIDE, _GAP, _ROW, _IMAGE = 1.06, 0.06, 1.3, 3.5
_LEFT, _TOP, _BELOW = 0.3, 0.85, 0.3  # inches


def restoration_triptych(corrupted_NCZYX: Array, restored_NCZYX: Array, target_NCZYX: Array, title: str) -> bytes:
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
    errors_NC = np.mean((restored_NCZYX.astype(np.float64) - target_NCZYX) ** 2, axis=(2, 3, 4))
    ax, figure = new_sheet(_LEFT + 3 * _IMAGE, _TOP + count * _ROW + _BELOW)
    for row, channel, stage in np.ndindex(count, 3, 3):
        left, top = _LEFT + channel * _IMAGE + stage * (_SIDE + _GAP), _TOP + row * _ROW
        x, y = left + _SIDE / 2, top + _SIDE / 2
        put_image(ax, stages[stage][row, channel, middle], (left, top), (_SIDE, _SIDE), (0, 1), "nearest")
        if row == 0:
            ax.text(x, top - 0.07, f"{CHANNELS[channel]}, {_STAGES[stage]}", fontsize=9, color=INK, ha="center")
        if stage == 1:
            error = f"MSE {errors_NC[row, channel]:.4f}"
            ax.text(x, top + _SIDE + 0.15, error, fontsize=8, color=FAINT, ha="center")
        if channel == stage == 0:
            ax.text(left - 0.08, y, f"cube {row + 1}", fontsize=8, color=INK, ha="right", va="center", rotation=90)
    heading(figure, title)
    note = "middle slices, scaled intensity, black 0 to white 1; MSE: mean squared error over the whole cube"
    ax.text(_LEFT + 3 * _IMAGE - 0.1, ax.get_ylim()[0] - 0.1, note, fontsize=8, color=FAINT, ha="right")
    return png_of(figure)
