"""Whether a gland lies where an image shows it: mutual information of its zones with the image, there and moved."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from zssmnet.data.image_io import array_of

_REACH_MM = np.array([12.0, 16.0, 16.0])
"""How far the gland is moved along z, y, x."""
LOOKED_AT_MM = 28.0
"""Distance from the gland within which nothing changes what is found."""
_STEP_MM = np.array([5.0, 4.0, 4.0])
_CELL_MM, _RING_MM = 2.0, 8.0
_QUANTILES = 12
_PLACES = 1500
"""Cells of the gland and the ring around it that are sampled."""
_SMALLEST_SHARE = 0.8
"""Of them, that has to stay in the image where the gland is moved to."""
_CHANCE = 40.0
"""Nats that chance alone may add, times the number of cells: noise has 11 wherever the gland is moved."""
_ALL_BUT = 0.7
"""Nats from which on an image shows nothing but the zones; real ones have 0.1 to 0.4."""

Array = npt.NDArray[Any]
Triple = tuple[float, float, float]


def odd_places(mask: sitk.Image, images: Sequence[tuple[str, sitk.Image, float]]) -> list[str]:
    """Images that the gland fits better if it is moved, or nowhere, or that are made of the mask.

    Args:
        mask: labels 0, 1, 2, not all 0; axes in the order left, posterior, superior.
        images: name, image on the same grid, and the factor from which on more information elsewhere is odd.
    """
    found = []
    for (name, _, factor), (here, best, (z, y, x), chance) in zip(
        images, information_by_move(mask, [image for _, image, _ in images]), strict=True
    ):
        if here > _ALL_BUT:
            found.append(f"{name} shows the mask's zones and nothing else: is it made of the mask?")
        elif best < min(chance, _CHANCE / _PLACES):
            found.append(f"{name} shows the gland no better than noise does, here or nearby: is it an image of it?")
        elif best > max(factor * here, here + chance):
            found.append(
                f"the gland fits {name} better if it is moved by {x:+.0f} mm to the left, {y:+.0f} mm to the back and "
                f"{z:+.0f} mm up (mutual information {best:.2f}, not {here:.2f}): does it lie beside the gland?"
            )
    return found


def information_by_move(mask: sitk.Image, images: Sequence[sitk.Image]) -> list[tuple[float, float, Triple, float]]:
    """Mutual information in nats of {ring of 8 mm, zone 1, zone 2} with each image in 12 quantiles.

    Returns:
        That where the mask lies, the largest, the move in mm along z, y, x that gives it, and what chance may add.
    """
    spacing = np.array(mask.GetSpacing()[::-1])
    cell = np.maximum(1, np.rint([0, *_CELL_MM / spacing[1:]])).astype(int)
    step_mm = spacing * cell
    ring, reach = ((np.array(mm) // step_mm).astype(int) for mm in ([0, _RING_MM, _RING_MM], _REACH_MM))
    window, padding = _window(mask, cell, ring + reach)
    labels = np.pad(array_of(mask)[window].astype(np.int32), padding)
    labels = labels[:, cell[1] // 2 :: cell[1], cell[2] // 2 :: cell[2]]
    near = labels > 0
    for axis in (1, 2):
        near = np.logical_or.reduce([np.roll(near, n, axis) for n in range(-ring[axis], ring[axis] + 1)])
    places = np.flatnonzero(near)
    places = places[:: max(1, len(places) // _PLACES)]
    strides = np.maximum(1, np.rint(_STEP_MM / step_mm)).astype(int)
    moves = np.array(list(product(*(range(-(n // s) * s, n + 1, s) for n, s in zip(reach, strides, strict=True)))))
    found = []
    for number, image in enumerate(images):
        if number == 1:  # T2W is drawn on; the others have larger voxels and are off by more where they are wrong
            moves = moves[(moves // strides % 2 == 0).all(axis=1)]
        moved = places + (moves @ [labels[0].size, labels.shape[2], 1])[:, None]
        rows = 3 * np.arange(len(moves), dtype=np.int32)[:, None] + labels.ravel()[places]
        values = np.pad(array_of(image)[window].astype(np.float32), padding, constant_values=np.nan)
        values = np.add.reduce([values[:, y :: cell[1], x :: cell[2]] for y, x in product(*map(range, cell[1:]))])
        codes = (_QUANTILES + 1) * rows + _levels(values).ravel()[moved]
        counts = np.bincount(codes.ravel(), minlength=(_QUANTILES + 1) * 3 * len(moves))
        counts = counts.reshape(len(moves), 3, _QUANTILES + 1)[:, :, :_QUANTILES]
        here = float(_information(counts[~moves.any(axis=1)])[0])
        enough = counts.sum(axis=(1, 2)) >= _SMALLEST_SHARE * len(places)
        information = np.where(enough, _information(counts), here)
        best = int(information.argmax())
        z, y, x = (moves[best] * step_mm).tolist()
        found.append((here, float(information[best]), (z, y, x), _CHANCE / max(len(places), 1)))
    return found


def _window(mask: sitk.Image, cell: Array, far: Array) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """The gland and ``far`` cells around it, in whole cells: the part in the image, and what it lacks on both sides."""
    labels = array_of(mask)
    window, padding = [], []
    for place, one, more, size in zip(np.nonzero(labels), cell.tolist(), far.tolist(), labels.shape, strict=True):
        low, high = (int(place.min()) // one - more) * one, (int(place.max()) // one + 1 + more) * one
        window.append(slice(max(0, low), min(high, size)))
        padding.append((max(0, -low), max(0, high - size)))
    return tuple(window), padding


def _levels(values: Array) -> Array:
    """Quantile of each value, from 0; the last number is that of cells outside of the image."""
    known = np.sort(values[~np.isnan(values)])
    bounds = known[[len(known) * number // _QUANTILES for number in range(1, _QUANTILES)]]
    return np.where(np.isnan(values), _QUANTILES, np.searchsorted(bounds, values)).astype(np.int32)


def _information(counts: Array) -> Array:
    """By the first axis of (move, zone, level)."""
    share = counts / np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1)
    independent = share.sum(axis=1, keepdims=True) * share.sum(axis=2, keepdims=True)
    ratio = np.divide(share, independent, out=np.ones_like(share), where=share > 0)
    information: Array = (share * np.log(ratio)).sum(axis=(1, 2))
    return information
