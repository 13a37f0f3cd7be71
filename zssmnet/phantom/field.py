"""Smooth random fields: what makes an organ's border uneven, a tissue textured and a coil's sensitivity vary."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_array

from zssmnet.phantom.grid import Axes, Floats, Triple


@dataclass(frozen=True)
class SmoothField:
    """Random numbers on a coarse lattice of knots, each spread by a Gaussian: mean 0, variance 1.

    A field is a function of position, not of a grid: T2W and the coarser ADC sample the same texture. As the
    Gaussians separate, sampling it is three small matrix products.

    Attributes:
        knots_zyx: the random numbers.
        first_mm: position of the first knot x, y, z.
        scale_mm: distance of the knots x, y, z, which is the size of the field's details.
    """

    knots_zyx: Floats
    first_mm: Triple
    scale_mm: Triple

    @classmethod
    def sample(cls, rng: np.random.Generator, axes: Axes, scale_mm: Triple) -> Self:
        """Draw a field that covers the positions `axes` with details of the size `scale_mm` (x, y, z)."""
        x, y, z = (
            int(np.ceil((float(axis[-1]) - float(axis[0])) / scale)) + 5
            for axis, scale in zip(axes, scale_mm, strict=True)
        )
        first = tuple(float(axis[0]) - 2 * scale for axis, scale in zip(axes, scale_mm, strict=True))
        knots = rng.standard_normal((z, y, x), dtype=np.float32)
        return cls(knots, (first[0], first[1], first[2]), scale_mm)

    def at(self, axes: Axes) -> Floats:
        """The field's values, axes (z, y, x), at the positions `axes` (x, y, z)."""
        values = self.knots_zyx
        for i, axis in enumerate(axes):
            values = _along(values, self._weights(axis, i), 2 - i)
        return values

    def _weights(self, axis_mm: Floats, i: int) -> csr_array:
        """How much each position (row) takes from each knot (column); rows of length 1 keep the variance at 1."""
        knots_mm = self.first_mm[i] + self.scale_mm[i] * np.arange(self.knots_zyx.shape[2 - i])
        distance = (axis_mm[:, None] - knots_mm[None, :]) / (0.7 * self.scale_mm[i])
        weights = np.where(np.abs(distance) < 3.5, np.exp(-0.5 * distance**2), 0)
        return csr_array((weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32))


def _along(values_zyx: Floats, weights: csr_array, axis: int) -> Floats:
    """Multiply one axis of an array with a matrix; a sparse one keeps to one thread and to the nearby knots."""
    moved = np.moveaxis(values_zyx, axis, 0)
    product: Floats = weights @ moved.reshape(len(moved), -1)
    return np.moveaxis(product.reshape(-1, *moved.shape[1:]), 0, axis)
