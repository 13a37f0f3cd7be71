"""Values that are finite and impossible, or odd, by the distribution of an image itself.

A value that stands in for NaN or infinity (3.4e38, 1e10, 65535, -32768), or a single bright voxel, ruins a case
silently: interpolation spreads it, and scaling by minimum and maximum presses all other values together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_PLAUSIBLE_RATIO = 20.0
"""Distance of an extreme from nearly all values, in widths of their range; real high-b images reach 5."""
IMPOSSIBLE_RATIO = 100.0
"""From here on nearly all values share 1 % of the range: certainly damage."""
LARGEST_GAP = 4.0
"""Empty part of the range below an extreme, in widths of all values below that."""
_FEW, _SOME, _MOST = 0.005, 0.05, 0.5
"""Shares of the voxels: a distribution's tail, a patch of values that differ, and one value that stands for none."""
_SAMPLE = 2**15  # voxels


@dataclass(frozen=True)
class Outlier:
    """The most extreme voxel of an image that has an odd one."""

    index: tuple[int, int, int]  # x, y, z, as the file stores it
    value: float
    low: float  # from here to ``high`` lie all values, or nearly all, on its side of the median
    high: float
    ratio: float  # distance of ``value`` from there, in widths of that range

    @property
    def is_damage(self) -> bool:
        """Whether the image is certainly damaged."""
        return self.ratio >= IMPOSSIBLE_RATIO

    def __str__(self) -> str:
        return (
            f"the value {self.value:.6g} at voxel {self.index}, {self.ratio:.3g} times as far from the other values "
            f"({self.low:.6g} to {self.high:.6g}) as their range is wide"
        )


def find_outlier(array_ZYX: npt.NDArray[Any]) -> Outlier | None:
    """The worst voxel of an image that is far from all or nearly all others; None if there is none.

    A few voxels are odd if they are far from the bulk, or if a wide empty range lies below them; more of them, if in
    addition their own values lie close together; up to half of the image, if they have one value, as where a
    sentinel stands for no value.
    """
    flat = array_ZYX.reshape(-1)
    sample = np.sort(flat[:: max(1, flat.size // _SAMPLE) | 1].astype(np.float64))
    found = []
    for sign, ordered, place in ((1, sample, int(flat.argmax())), (-1, -sample[::-1], int(flat.argmin()))):
        value = float(flat[place])
        bulk = sign * _quantile(ordered, 1 - _FEW)
        tail = np.sort(flat[flat > bulk] if sign > 0 else flat[flat < bulk])
        ends = _tail(ordered, sign * tail.astype(np.float64)[::sign]) or _group(ordered)
        if ends:
            low, high = sorted(sign * end for end in ends)
            z, y, x = (int(index) for index in np.unravel_index(place, array_ZYX.shape))
            found.append(Outlier((x, y, z), value, low, high, (sign * value - ends[1]) / (ends[1] - ends[0])))
    return max(found, key=lambda outlier: outlier.ratio, default=None)


def _quantile(ordered: npt.NDArray[np.float64], share: float) -> float:
    return float(ordered[int(share * (len(ordered) - 1))])


def _below(ordered: npt.NDArray[np.float64], value: float) -> float:
    """The lower quartile; where ``value`` itself is so frequent (a background of zeros), the lowest value."""
    quarter = _quantile(ordered, 0.25)
    return quarter if quarter < value else float(ordered[0])


def _tail(ordered: npt.NDArray[np.float64], tail: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """The range that the lower ones share, if the highest values of a tail are far from it."""
    bulk = _quantile(ordered, 1 - _FEW)
    quarter = _below(ordered, bulk)
    if bulk == quarter or not len(tail) or tail[-1] - bulk <= LARGEST_GAP * (bulk - quarter):
        return None
    if tail[-1] - bulk > MOST_PLAUSIBLE_RATIO * (bulk - quarter):
        return quarter, bulk
    below = np.concatenate([[bulk], tail[:-1]])
    wide = np.flatnonzero(tail - below > LARGEST_GAP * (below - quarter))
    return (quarter, float(below[wide[0]])) if len(wide) else None


def _group(ordered: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """The range of the lower values, if more than a few high ones lie far from it, close together."""
    upper = ordered[int((1 - _MOST) * len(ordered)) :]
    quarter = _below(ordered, upper[0])
    widths, gaps = upper[:-1] - quarter, np.diff(upper)
    spreads = upper[-1] - upper[1:]
    shares = np.arange(len(gaps), 0, -1) / len(ordered)
    is_patch = (gaps > MOST_PLAUSIBLE_RATIO * widths) & (spreads <= gaps) & (shares <= _SOME)
    is_one_value = (gaps > LARGEST_GAP * widths) & (spreads <= 1e-3 * gaps)
    found = np.flatnonzero((widths > 0) & (is_patch | is_one_value))
    return (quarter, float(upper[found[0]])) if len(found) else None
