"""Ellipsoids, of which the organs are made."""

import math
from dataclasses import dataclass

import numpy as np

from zssmnet.phantom.grid import Axes, Floats, Triple

Box = tuple[slice, slice, slice]  # along the array's axes z, y, x


@dataclass(frozen=True)
class Positions:
    """Where the voxels of a grid lie, in mm from the gland's centre, after a smooth distortion.

    Attributes:
        axes: undistorted positions along x, y, z, each 1D.
        x_zyx: position to the left, distorted.
        y_zyx: position to the back, distorted.
    """

    axes: Axes
    x_zyx: Floats
    y_zyx: Floats

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along z, y, x."""
        x, y, z = self.axes
        return len(z), len(y), len(x)

    def box(self, centre_mm: Triple, reach_mm: Triple) -> Box:
        """The voxels within a reach of a position; one axis after the other, so a box."""
        x, y, z = (
            slice(*np.searchsorted(axis, (centre - reach, centre + reach)).tolist())
            for axis, centre, reach in zip(self.axes, centre_mm, reach_mm, strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid in the gland's frame (x to the left, y to the back, z to the head).

    Attributes:
        centre_mm: its centre x, y, z.
        radii_mm: half axes x, y, z; an infinite one along z makes a tube.
        turn_degrees: rotation within the slice, from x towards y.
        lean: how far the centre moves back for each mm towards the head.
    """

    centre_mm: Triple
    radii_mm: Triple
    turn_degrees: float = 0.0
    lean: float = 0.0

    def mirrored(self) -> "Ellipsoid":
        """The same on the other side of the body."""
        x, y, z = self.centre_mm
        return Ellipsoid((-x, y, z), self.radii_mm, -self.turn_degrees, self.lean)

    def distance(self, positions: Positions) -> tuple[Box, Floats]:
        """Distance from the centre, 1 at the surface, of the voxels in a box that holds the ellipsoid.

        Returns:
            The box, and the distances in it, axes (z, y, x).
        """
        _, _, z_mm = positions.axes
        height = min(self.radii_mm[2], float(np.abs(z_mm).max()) + abs(self.centre_mm[2]))
        reach = max(self.radii_mm[:2]) + 8.0  # the distortion moves borders by a few mm
        box = positions.box(self.centre_mm, (reach, reach + abs(self.lean) * height, self.radii_mm[2]))
        z = z_mm[box[0], None, None] - self.centre_mm[2]
        x = positions.x_zyx[box] - self.centre_mm[0]
        y = positions.y_zyx[box] - self.centre_mm[1] - self.lean * z
        c, s = math.cos(math.radians(self.turn_degrees)), math.sin(math.radians(self.turn_degrees))
        along, across = (c * x + s * y) / self.radii_mm[0], (c * y - s * x) / self.radii_mm[1]
        return box, np.sqrt(along**2 + across**2 + (z / self.radii_mm[2]) ** 2)
