"""Small pictures for pages of many cases: grey slices as JPEG, outlines of zones over them as SVG."""

import base64
import io
from collections.abc import Sequence
from typing import Annotated

import contourpy
import numpy as np
from PIL import Image
from pydantic import Field

from zssmnet.preparation.cropping import bounding_box, margin_in_voxels
from zssmnet.preparation.cubes import Spacing
from zssmnet.report.palette import ZONES, Array

SIDE = 96
"""Pixels of a thumbnail."""
MARGIN_MM = 15.0
"""Around the gland."""
_QUALITY = 45
_HALF = 0.5
_STEP = 2
"""Every so many pixels of an outline one is drawn."""

Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*=*$")]
Path = Annotated[str, Field(pattern=r"^[MLZ0-9. ]*$")]
"""What goes into a page as it is: a row that was kept elsewhere brings no markup."""
Outlines = tuple[Path, Path]
"""SVG paths around the zones 1 and 2 of a slice, in pixels of a thumbnail; empty where there is no such zone."""


def shown_slices(mask_ZYX: Array) -> tuple[int, int, int]:
    """Slices at 4/5, 1/2 and 1/5 of the gland's height, or of the volume's where the mask is empty."""
    inside = np.flatnonzero(mask_ZYX.any(axis=(1, 2)))
    first, last = (inside[0], inside[-1]) if len(inside) else (0, len(mask_ZYX) - 1)
    upper, middle, lower = (round(first + share * (last - first)) for share in (0.8, 0.5, 0.2))
    return upper, middle, lower


def draw_gland(
    image_ZYX: Array, masks_ZYX: Sequence[Array], spacing_mm: Spacing
) -> tuple[str, list[tuple[Outlines, ...]]]:
    """Draw the `shown_slices` of the first mask around the gland; empty where no mask has one.

    Returns:
        A `jpeg`, and the `outlines` of each mask in each slice.
    """
    gland = bounding_box(np.maximum.reduce(masks_ZYX))
    if gland is None:
        return "", [() for _ in masks_ZYX]
    x, y, _ = margin_in_voxels(MARGIN_MM, spacing_mm)
    depth, height, width = image_ZYX.shape
    _, rows, columns = gland.widened((x, y, 0), (width, height, depth)).window_ZYX
    slices = shown_slices(masks_ZYX[0])
    shown = [tuple(outlines(mask[z, rows, columns]) for z in slices) for mask in masks_ZYX]
    return jpeg([image_ZYX[z, rows, columns] for z in slices]), shown


def squared(slice_YX: Array) -> Array:
    """The slice with zeros at both sides of its shorter axis, so that it is as high as wide."""
    side = max(slice_YX.shape)
    before = [(side - size) // 2 for size in slice_YX.shape]
    return np.pad(slice_YX, [(first, side - size - first) for first, size in zip(before, slice_YX.shape, strict=True)])


def jpeg(slices_YX: Sequence[Array]) -> str:
    """Slices side by side, each in the grey levels of its 1st to 99th percentile; base64."""
    tiles = []
    for slice_YX in slices_YX:
        low, high = np.percentile(slice_YX, (1, 99))
        levels = np.clip((slice_YX - low) / max(float(high - low), 1e-6), 0, 1) * 255
        tile = Image.fromarray(squared(levels.astype(np.uint8)))
        tiles.append(np.asarray(tile.resize((SIDE, SIDE), Image.Resampling.BOX)))
    stream = io.BytesIO()
    Image.fromarray(np.hstack(tiles)).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def outlines(zones_YX: Array) -> Outlines:
    """Outlines of a slice's zones."""
    zones = squared(zones_YX)
    centres = (np.arange(len(zones)) + _HALF) * SIDE / len(zones)
    first, second = (_path(centres, zones == label) for label in (1, 2))
    return first, second


def _path(centres: Array, inside_YX: Array) -> str:
    lines = contourpy.contour_generator(centres, centres, inside_YX.astype(np.float64)).lines(_HALF)
    rounded = (list(dict.fromkeys(f"{x:.0f} {y:.0f}" for x, y in np.asarray(line)))[::_STEP] for line in lines)
    return "".join(f"M{'L'.join(points)}Z" for points in rounded if len(points) > 1)


def strokes(zones: Outlines) -> str:
    """The outlines of a slice's zones, SVG."""
    return "".join(
        f'<path d="{path}" stroke="{colour}"/>' for path, (colour, _) in zip(zones, ZONES, strict=True) if path
    )


def drawing(picture: str, tiles: Sequence[str]) -> str:
    """SVG of a picture of `jpeg` with SVG over each of its tiles."""
    width = SIDE * len(tiles)
    groups = "".join(f'<g transform="translate({SIDE * number})">{tile}</g>' for number, tile in enumerate(tiles))
    return (
        f'<svg class=pic fill=none style="width:{1.5 * width:.0f}px" viewBox="0 0 {width} {SIDE}"><image width={width} '
        f'height={SIDE} href="data:image/jpeg;base64,{picture}"/>{groups}</svg>'
    )
