"""Positions in the patient: grids of voxels, smooth random fields sampled on them, ellipsoids."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Point = tuple[float, float, float]
Axes = tuple[Floats, Floats, Floats]  # positions along x, y and z in mm, each 1D

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def oblique_axial(degrees: float) -> tuple[float, ...]:
    """Direction of axial slices tilted about the left-right axis, perpendicular to a prostate that leans back.

    At positive degrees the slices' posterior edge lies lower, as PI-CAI's mostly do. Nine cosines in SimpleITK's order.
    """
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (1.0, 0.0, 0.0, 0.0, c, s, 0.0, -s, c)


@dataclass(frozen=True)
class GridSpec:
    """A voxel grid in patient space (LPS: x to the left, y to the back, z to the head).

    Attributes:
        size_xyz: voxels along x, y, z.
        spacing_mm: distance of neighbouring voxels along x, y, z.
        origin_mm: position of the first voxel's centre.
        direction: nine direction cosines, row by row, as SimpleITK's.
    """

    size_xyz: tuple[int, int, int]
    spacing_mm: Point
    origin_mm: Point = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    @classmethod
    def centred(
        cls,
        size_xyz: tuple[int, int, int],
        spacing_mm: Point,
        centre_mm: Point,
        degrees: float = 0.0,
        direction: tuple[float, ...] | None = None,
    ) -> Self:
        """Grid around a position in the patient: axial, tilted by `degrees` (see `oblique_axial`), or as given."""
        direction = direction or (oblique_axial(degrees) if degrees else IDENTITY)
        half_mm = (np.array(size_xyz) - 1) / 2 * np.array(spacing_mm)
        x, y, z = np.array(centre_mm) - np.reshape(direction, (3, 3)) @ half_mm
        return cls(size_xyz, spacing_mm, (float(x), float(y), float(z)), direction)

    @classmethod
    def of(cls, image: sitk.Image) -> Self:
        """The grid of an image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def image(self, values_zyx: npt.NDArray[np.generic]) -> sitk.Image:
        """An image with these values, axes (z, y, x), on this grid."""
        image = sitk.GetImageFromArray(values_zyx)
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction)
        return image

    def position(self, index_xyz: npt.ArrayLike) -> Point:
        """The position in the patient, in mm, of an index x, y, z that need not be whole."""
        steps_mm = np.asarray(index_xyz) * np.array(self.spacing_mm)
        x, y, z = np.array(self.origin_mm) + np.reshape(self.direction, (3, 3)) @ steps_mm
        return float(x), float(y), float(z)

    def axes_mm(self, centre_mm: Point) -> Axes:
        """The voxels' positions along this grid's own axes, in mm from a position in the patient."""
        first = np.reshape(self.direction, (3, 3)).T @ (np.array(self.origin_mm) - np.array(centre_mm))
        x, y, z = (
            (start + np.arange(n) * step).astype(np.float32)
            for start, n, step in zip(first, self.size_xyz, self.spacing_mm, strict=True)
        )
        return x, y, z


DEMO_GRIDS = (
    GridSpec.centred((320, 320, 19), (0.5, 0.5, 3.0), (-3.0, 16.0, -6.0)),
    GridSpec.centred((384, 384, 17), (0.3, 0.3, 3.6), (1.5, -4.0, 21.0), degrees=14.0),
    GridSpec.centred((384, 384, 23), (0.342, 0.342, 3.0), (4.0, 9.0, -11.0), degrees=21.0),
    GridSpec.centred((288, 288, 17), (0.5625, 0.5625, 3.0), (0.0, 22.0, 3.0), degrees=18.0),
    GridSpec.centred((320, 320, 27), (0.469, 0.469, 3.0), (-6.0, 2.0, 14.0)),
    GridSpec.centred((256, 256, 21), (0.5, 0.5, 3.6), (2.0, 12.0, -3.0), degrees=10.0),
)
"""Grids after those of PI-CAI's scanners, on matrices small enough for a quick demo; most are oblique."""


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
    first_mm: Point
    scale_mm: Point

    @classmethod
    def sample(cls, rng: np.random.Generator, axes: Axes, scale_mm: Point) -> Self:
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
        """Weight of each knot (column) at each position (row); rows of length 1 keep the variance at 1."""
        knots_mm = self.first_mm[i] + self.scale_mm[i] * np.arange(self.knots_zyx.shape[2 - i])
        distance = (axis_mm[:, None] - knots_mm[None, :]) / (0.7 * self.scale_mm[i])
        weights = np.where(np.abs(distance) < 3.5, np.exp(-0.5 * distance**2), 0)
        return csr_array((weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32))


def _along(values_zyx: Floats, weights: csr_array, axis: int) -> Floats:
    """Multiply one axis of an array with a matrix; a sparse one keeps to one thread and to the nearby knots."""
    moved = np.moveaxis(values_zyx, axis, 0)
    product: Floats = weights @ moved.reshape(len(moved), -1)
    return np.moveaxis(product.reshape(-1, *moved.shape[1:]), 0, axis)


Window = tuple[slice, slice, slice]  # along the array's axes z, y, x


@dataclass(frozen=True)
class Positions:
    """Positions of a grid's voxels, in mm from the gland's centre, after a smooth distortion.

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

    def box(self, centre_mm: Point, reach_mm: Point) -> Window:
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

    centre_mm: Point
    radii_mm: Point
    turn_degrees: float = 0.0
    lean: float = 0.0

    def mirrored(self) -> "Ellipsoid":
        """The same on the other side of the body."""
        x, y, z = self.centre_mm
        return Ellipsoid((-x, y, z), self.radii_mm, -self.turn_degrees, self.lean)

    def distance(self, positions: Positions) -> tuple[Window, Floats]:
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
