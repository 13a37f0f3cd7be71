"""Grids: where the voxels of an image lie in the patient."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Triple = tuple[float, float, float]
Axes = tuple[Floats, Floats, Floats]  # positions along x, y and z in mm, each 1D

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def oblique_axial(degrees: float) -> tuple[float, ...]:
    """Direction of axial slices tilted about the left-right axis, perpendicular to a prostate that leans back.

    Args:
        degrees: tilt; at a positive one the slices' posterior edge lies lower, as PI-CAI's mostly do.

    Returns:
        Nine direction cosines in SimpleITK's order (row by row).
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
    spacing_mm: Triple
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    @classmethod
    def centred(
        cls, size_xyz: tuple[int, int, int], spacing_mm: Triple, centre_mm: Triple, degrees: float = 0.0
    ) -> Self:
        """Axial grid around a position in the patient, tilted by `degrees` (see `oblique_axial`)."""
        return cls._around(size_xyz, spacing_mm, centre_mm, oblique_axial(degrees) if degrees else IDENTITY)

    @classmethod
    def _around(
        cls,
        size_xyz: tuple[int, int, int],
        spacing_mm: Triple,
        centre_mm: Triple,
        direction: tuple[float, ...],
    ) -> Self:
        half_mm = (np.array(size_xyz) - 1) / 2 * np.array(spacing_mm)
        x, y, z = np.array(centre_mm) - np.reshape(direction, (3, 3)) @ half_mm
        return cls(size_xyz, spacing_mm, (float(x), float(y), float(z)), direction)

    def around(self, centre_mm: Triple, size_xyz: tuple[int, int, int], spacing_mm: Triple) -> "GridSpec":
        """Another grid with this one's direction, around a position in the patient."""
        return self._around(size_xyz, spacing_mm, centre_mm, self.direction)

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

    def position(self, index_xyz: npt.ArrayLike) -> Triple:
        """The position in the patient, in mm, of an index x, y, z that need not be whole."""
        steps_mm = np.asarray(index_xyz) * np.array(self.spacing_mm)
        x, y, z = np.array(self.origin_mm) + np.reshape(self.direction, (3, 3)) @ steps_mm
        return float(x), float(y), float(z)

    def axes_mm(self, centre_mm: Triple) -> Axes:
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
