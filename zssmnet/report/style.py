"""Shared parts of all figures: outlines, legends, small PNGs."""

import io
from collections.abc import Sequence

import contourpy
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from PIL import Image

from zssmnet.report.palette import CUBE_COLOUR, FAINT, INK, LINES, TRAINING_COLOUR, VALIDATION_COLOUR, ZONES, Array

LARGEST_PNG = 200_000
"""Bytes; pictures are embedded in pages."""
_QUALITIES = ((100, 128), (100, 64), (100, 32), (80, 32), (60, 24))
"""Dots per inch and grey levels, from the finest to one that is small for any picture of this package."""
_COMPRESSION = 6  # of 9, which makes one in a hundred bytes less in twice the time
_LARGEST_TINT = 28  # of 255: what is less coloured, text and grid lines too, becomes grey
_LINE_COLOURS = (*(colour for colour, _ in ZONES), CUBE_COLOUR, TRAINING_COLOUR, VALIDATION_COLOUR)
_MIXTURES = ((1, 0), (0.75, 0), (0.5, 0), (0.7, 128), (0.4, 128), (0.75, 255), (0.5, 255), (0.25, 255))
_SHADES = np.rint([s * 255 * np.array(to_rgb(c)) + (1 - s) * grey for c in _LINE_COLOURS for s, grey in _MIXTURES])
"""The lines' colours on black, grey and white ground, as smooth edges need them, shape (shades, 3), 0..255."""
_HEADING = 0.4  # inches
Pair = tuple[float, float]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, in which all parts but the heading find their places by themselves."""
    margins = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.98 - _HEADING / height))
    return Figure(figsize=(width, height), facecolor="white", layout=margins)


def new_sheet(width: float, height: float) -> tuple[Axes, Figure]:
    """An empty figure of a size in inches whose panels are put by hand, in a fifth of the time that axes of their own
    take; coordinates are inches from its upper left corner.
    """
    figure = Figure(figsize=(width, height), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.set_axis_off()
    return ax, figure


def put_image(ax: Axes, image_YX: Array, corner: Pair, size: Pair, window: Pair, interpolation: str) -> None:
    """Put a slice on a sheet: its upper left corner and size in inches, the values of black and white."""
    (x, y), (width, height), (low, high) = corner, size, window
    extent = (x, x + width, y + height, y)
    ax.imshow(image_YX, "gray", vmin=low, vmax=high, extent=extent, interpolation=interpolation, aspect="auto")


def outline_zones(ax: Axes, zones_YX: Array, corner: Pair, size: Pair) -> None:
    """Draw the outlines of the zones of a slice, labels 0, 1, 2, over its image."""
    step = np.divide(size, zones_YX.shape[::-1])
    for label, (colour, _) in enumerate(ZONES, start=1):
        for line in contourpy.contour_generator(z=(zones_YX == label).astype(np.float64)).lines(0.5):
            ax.add_line(Line2D(*(corner + (np.asarray(line) + 0.5) * step).T, color=colour, linewidth=1.0))


def legend(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    """Write a legend of lines (colour, name) in one row below all."""
    figure.legend(
        handles=[Line2D([], [], color=colour, linewidth=1.8, label=name) for colour, name in entries],
        loc="outside lower left" if figure.get_layout_engine() else "lower left",
        ncols=len(entries),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )


def heading(figure: Figure, title: str) -> None:
    """Write the heading."""
    y = 1 - 0.3 * _HEADING / figure.get_figheight()
    figure.suptitle(title, x=0.01, y=y, ha="left", fontsize=12, color=INK, weight="bold", parse_math=False)


def without_frame(ax: Axes) -> None:
    """Lines across instead of a frame."""
    ax.grid(axis="y", color=LINES, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", labelsize=8, colors=FAINT, length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(LINES)


def png_of(figure: Figure) -> bytes:
    """Draw a figure; the bytes of a PNG as fine as `LARGEST_PNG` allows."""
    _place(figure)
    data = b""
    for dpi, greys in _QUALITIES:
        data = _png(_drawn(figure, dpi), greys)
        if len(data) <= LARGEST_PNG:
            break
    return data


def _place(figure: Figure) -> None:
    """Lay the figure out, rounded: the last digits of the layout differ from call to call."""
    if layout := figure.get_layout_engine():
        layout.execute(figure)
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_position(tuple(round(number, 4) for number in ax.get_position(original=True).bounds))


def _drawn(figure: Figure, dpi: int) -> Array:
    """Colours, shape (rows, columns, 3), 0..255."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.array(canvas.buffer_rgba())[..., :3].astype(np.int32)  # type: ignore[no-untyped-call]


def _png(rgb_YXC: Array, greys: int) -> bytes:
    """PNG with a palette of some grey levels and the shades of the lines' colours."""
    indices = np.rint(rgb_YXC.sum(axis=2) * ((greys - 1) / (3 * 255))).astype(np.uint8)
    coloured = np.ptp(rgb_YXC, axis=2) > _LARGEST_TINT
    distances = (rgb_YXC[coloured][:, None] - _SHADES) ** 2
    indices[coloured] = greys + distances.sum(axis=-1).argmin(axis=-1)
    picture = Image.fromarray(indices).convert("P")
    levels = np.linspace(0, 255, greys)[:, None] * np.ones(3)
    picture.putpalette(np.rint(np.vstack([levels, _SHADES])).astype(np.uint8).ravel().tolist())
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=_COMPRESSION)
    return stream.getvalue()
