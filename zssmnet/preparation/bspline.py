"""Cubic B-spline interpolation on a grid with the same axes: one banded matrix an axis, applied in float64.

A cubic spline through samples is a sum of B-splines whose coefficients come from the samples by a recursive filter
(Unser, IEEE Signal Process. Mag. 16(6):22, 1999). Its impulse response is sqrt(3) p^|k| with p = sqrt(3) - 2, so that a
value of the spline is a weighted sum of the samples around it. Beyond their ends samples are mirrored.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from zssmnet.preparation.cropping import Box

Doubles = npt.NDArray[np.float64]

_POLE = np.sqrt(3) - 2
_REACH = 18
"""Samples on each side beyond the four of a B-spline: what lies further away counts less than 1e-10."""
_ROWS = 16
"""Rows of a matrix that are applied at a time, to the samples that they reach."""
_Rows = tuple[int, Doubles]
"""Some rows of an axis' matrix without the zeros around them, after the first sample that they reach."""
_MULTIPLICATIONS = 2**17
"""In one product: from twice as many on, OpenBLAS takes all cores, on which other cases are prepared."""


def interpolate(array_ZYX: npt.NDArray[Any], ratios: tuple[float, float, float], region: Box) -> Doubles:
    """The spline through the samples at the voxels of a region of another grid.

    Args:
        array_ZYX: at least 4 samples on each axis whose ratio is not 1.
        ratios: x, y, z spacing of the other grid, in spacings of the samples; both grids begin at the same voxel.
        region: voxels of the other grid.

    Returns:
        Values with axes (z, y, x); 0 more than half a sample beyond the last one.
    """
    matrices, windows = {}, []
    for axis, size in enumerate(array_ZYX.shape):
        start, stop, ratio = region.start[2 - axis], region.stop[2 - axis], ratios[2 - axis]
        if ratio == 1:  # the spline goes through the samples
            windows.append(slice(start, stop))
            continue
        positions = np.arange(start, stop, dtype=np.float64) * ratio
        matrix = matrices[axis] = [_rows(positions[row : row + _ROWS], size) for row in range(0, len(positions), _ROWS)]
        windows.append(slice(min(first for first, _ in matrix), max(first + rows.shape[1] for first, rows in matrix)))
    values: Doubles = array_ZYX[tuple(windows)].astype(np.float64)
    for axis in sorted(matrices, key=lambda axis: region.size[2 - axis] / values.shape[axis]):
        values = _along(values, axis, matrices[axis], windows[axis].start, region.size[2 - axis])
    return values


def _along(values_ZYX: Doubles, axis: int, matrix: list[_Rows], start: int, size: int) -> Doubles:
    """The matrix applied along an axis, which begins at the sample ``start``, and has ``size`` values then."""
    shape = list(values_ZYX.shape)
    shape[axis] = size
    result = np.empty(shape)
    into, values = (_second(array, axis) for array in (result, values_ZYX))
    for number, (first, weights) in enumerate(matrix):
        rows = slice(number * _ROWS, (number + 1) * _ROWS)
        samples = slice(first - start, first - start + weights.shape[1])
        columns = max(1, _MULTIPLICATIONS // weights.size)
        for column in range(0, values.shape[2], columns):
            some = slice(column, column + columns)
            np.matmul(weights, values[:, samples, some], out=into[:, rows, some])
    return result


def _second(array_ZYX: Doubles, axis: int) -> Doubles:
    """A view with an axis as the second of three."""
    return array_ZYX.reshape(1, len(array_ZYX), -1) if axis == 0 else array_ZYX.swapaxes(axis, 1)


def _rows(positions: Doubles, size: int) -> _Rows:
    """Weights of an axis' samples for values at positions that rise, in samples from the first of ``size``."""
    base = np.floor(positions).astype(np.int64)
    t = (positions - base)[:, None]
    splines = np.hstack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    around = np.arange(-1 - _REACH, 3 + _REACH)
    filtered = np.sqrt(3) * _POLE ** np.abs(np.arange(-1, 3)[:, None] - around)
    samples = (base[:, None] + around) % (2 * size - 2)
    samples = np.minimum(samples, 2 * size - 2 - samples)
    first = int(samples.min())
    weights = np.zeros((len(positions), int(samples.max()) + 1 - first))
    np.add.at(weights, (np.arange(len(positions))[:, None], samples - first), splines @ filtered)
    weights[positions > size - 0.5] = 0
    return first, weights
