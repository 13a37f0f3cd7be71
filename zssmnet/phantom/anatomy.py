"""The pelvis around a prostate: sampled once, then painted on any grid; how its tissues look in T2W, ADC and DWI."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from zssmnet.phantom.gland import PERIPHERAL_ZONE, TRANSITION_ZONE
from zssmnet.phantom.grid import Axes, Ellipsoid, Floats, Mask, Point, Positions, SmoothField


class Tissue(IntEnum):
    """Tissue of a voxel: its number, then its mean signals.

    Means are after PI-CAI's examinations; lesions as PI-RADS v2.1 describes them: dark, restricted diffusion. What
    mimics a subtle lesion differs from it in one of the images, or in its rim and place alone; what is bilateral,
    like a central zone, in that it is on both sides.

    Attributes:
        t2w: signal of a T2-weighted turbo spin echo, urine = 1.
        adc: apparent diffusion coefficient in um^2/s.
        epi: signal of the fat-suppressed echo-planar images without diffusion weighting, gland = 1.
        texture: standard deviation of the texture, relative to the mean.
    """

    t2w: float
    adc: float
    epi: float
    texture: float

    def __new__(cls, number: int, t2w: float, adc: float, epi: float, texture: float) -> Self:
        """A tissue of this number with these signals."""
        tissue = int.__new__(cls, number)
        tissue._value_, tissue.t2w, tissue.adc, tissue.epi, tissue.texture = number, t2w, adc, epi, texture
        return tissue

    AIR = 0, 0.0, 0, 0.0, 0.0
    FAT = 1, 0.52, 400, 0.075, 0.10
    MUSCLE = 2, 0.09, 1250, 0.38, 0.22
    MARROW = 3, 0.33, 500, 0.10, 0.14
    CORTEX = 4, 0.04, 0, 0.03, 0.1
    URINE = 5, 1.0, 2900, 1.6, 0.02
    BLADDER_WALL = 6, 0.12, 1350, 0.75, 0.12
    RECTAL_WALL = 7, 0.19, 1150, 0.7, 0.28
    STOOL = 8, 0.06, 600, 0.08, 0.3
    SEMINAL_VESICLE = 9, 0.58, 1800, 1.0, 0.35
    VEIN = 10, 0.62, 1600, 0.5, 0.15
    ARTERY = 11, 0.03, 0, 0.03, 0.1
    PLEXUS = 12, 0.28, 1400, 0.5, 0.4
    PERIPHERAL_ZONE = 13, 0.50, 1750, 1.0, 0.22
    TRANSITION_ZONE = 14, 0.22, 1250, 0.72, 0.28
    CAPSULE = 15, 0.12, 1300, 0.7, 0.1
    LESION = 16, 0.15, 720, 0.95, 0.14
    SUBTLE_LESION = 17, 0.20, 950, 0.92, 0.2
    STROMAL_NODULE = 18, 0.18, 930, 0.92, 0.2
    HAEMORRHAGE = 19, 0.18, 850, 0.6, 0.25
    INFLAMMATION = 20, 0.36, 1050, 1.1, 0.3
    BILATERAL = 21, 0.20, 950, 0.92, 0.2


def table(attribute: str) -> npt.NDArray[np.float32]:
    """One attribute of all tissues, to be indexed with a map of tissues."""
    return np.array([getattr(tissue, attribute) for tissue in Tissue], dtype=np.float32)


Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Organ:
    """A shape made of a tissue, perhaps with a rim of another one, `rim_mm` thick."""

    tissue: Tissue
    shape: Ellipsoid
    rim: Tissue | None = None
    rim_mm: float = 0.0

    def paint(self, tissues_zyx: Labels, positions: Positions) -> None:
        """Overwrite what lies within the organ."""
        box, distance = self.shape.distance(positions)
        within = tissues_zyx[box]
        if self.rim is not None:
            within[distance < 1] = self.rim
        smallest = min(self.shape.radii_mm)
        within[distance < 1 - self.rim_mm / smallest] = self.tissue


@dataclass(frozen=True)
class Focus:
    """A lesion, or what may be taken for one: nodule with a capsule, old blood, inflammation.

    Attributes:
        zones: labels of the mask in which it lies; it ends at their border.
    """

    tissue: Tissue
    shape: Ellipsoid
    zones: tuple[int, ...] = (PERIPHERAL_ZONE, TRANSITION_ZONE)
    has_capsule: bool = False


@dataclass(frozen=True)
class Anatomy:
    """Everything that is drawn for a patient, in mm from the gland's centre along the axes of the T2W grid.

    Attributes:
        centre_mm: the centre of the gland's bounding box in the patient.
        half_mm: half the size of the gland's bounding box, with a margin of some mm.
        organs: painted one after the other, so that later ones cover earlier ones.
        nodules: of the transition zone, each with its brightness: glandular (above 1 in T2W) or stromal (below).
        foci: painted last, lesions after what mimics them.
        distortion: two fields that move borders along x and y.
        texture: one field, which T2W and ADC share.
    """

    centre_mm: Point
    half_mm: Point
    organs: tuple[Organ, ...]
    nodules: tuple[tuple[Ellipsoid, float], ...]
    foci: tuple[Focus, ...]
    distortion: tuple[SmoothField, SmoothField]
    texture: SmoothField

    def tissues(self, positions: Positions, zones_zyx: Labels, given_zyx: Labels) -> Labels:
        """The tissues, axes (z, y, x), at these positions, where the zonal mask on the same voxels has them.

        Args:
            given_zyx: tissues that are painted last, within the gland; 0 where none is given.
        """
        tissues = np.full(positions.shape, Tissue.AIR, np.uint8)
        for organ in self.organs:
            organ.paint(tissues, positions)
        tissues[zones_zyx == PERIPHERAL_ZONE] = Tissue.PERIPHERAL_ZONE
        tissues[zones_zyx == TRANSITION_ZONE] = Tissue.TRANSITION_ZONE
        self._paint_seams(tissues, positions, zones_zyx)
        for focus in self.foci:
            box, distance = focus.shape.distance(positions)
            within = (distance < 1) & np.isin(zones_zyx[box], focus.zones)
            tissues[box][within] = focus.tissue
            if focus.has_capsule:
                tissues[box][within & (distance > 0.8)] = Tissue.CAPSULE
        is_given = (given_zyx > 0) & (zones_zyx > 0)
        tissues[is_given] = given_zyx[is_given]
        return tissues

    def _paint_seams(self, tissues: Labels, positions: Positions, zones_zyx: Labels) -> None:
        """Veins and nerves close around the gland; thin dark capsules of gland and transition zone."""
        x, y, _ = positions.axes
        box = positions.box((0.0, 0.0, 0.0), self.half_mm)
        within, zones = tissues[box], zones_zyx[box]

        def near(part: Mask, reach_mm: float) -> Floats:
            sigma = (0.0, reach_mm / float(y[1] - y[0]), reach_mm / float(x[1] - x[0]))
            blurred: Floats = gaussian_filter(part.astype(np.float32), sigma, truncate=2.5)
            return blurred

        within[(within == Tissue.FAT) & (near(zones > 0, 2.5) > 0.06)] = Tissue.PLEXUS
        within[(zones == 0) & (near(zones > 0, 0.8) > 0.2)] = Tissue.CAPSULE
        within[(zones == PERIPHERAL_ZONE) & (near(zones == TRANSITION_ZONE, 0.8) > 0.25)] = Tissue.CAPSULE

    def nodularity(self, positions: Positions) -> Floats:
        """Relative T2W signal, axes (z, y, x), that the nodules give to the transition zone: 1 between them."""
        relative = np.ones(positions.shape, np.float32)
        for shape, brightness in self.nodules:
            box, distance = shape.distance(positions)
            within = relative[box]
            within[distance < 1] = 0.6  # a nodule's capsule
            within[distance < 0.85] = brightness
        return relative

    def positions(self, axes: Axes) -> Positions:
        """Distorted positions of the voxels at `axes` (x, y, z in mm from the gland's centre)."""
        x, y, _ = axes
        bent_x, bent_y = (2.6 * field.at(axes) for field in self.distortion)
        return Positions(axes, bent_x + x[None, None, :], bent_y + y[None, :, None])
