"""How the loss fell."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from zssmnet.errors import InputError
from zssmnet.report.palette import FAINT, INK, TRAINING_COLOUR, VALIDATION_COLOUR
from zssmnet.report.style import heading, legend, new_figure, png_of, without_frame

Epoch = tuple[int, float, float, float]


def loss_curves(history: Sequence[Epoch], best_epoch: int, title: str) -> bytes:
    """Draw training and validation loss by epoch, with the learning rate below.

    Args:
        history: epoch, training loss, validation loss (both mean squared errors) and learning rate of each epoch.
        best_epoch: the epoch whose weights were kept; marked if it is in the history.
        title: heading.

    Returns:
        A PNG; losses and learning rate have logarithmic scales.

    Raises:
        InputError: an empty history.
    """
    if not history:
        raise InputError("no epoch in the history: there is nothing to draw")
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
