"""Tissues and how they look in T2W, ADC and DWI."""

from enum import IntEnum
from typing import NamedTuple

import numpy as np


class Tissue(IntEnum):
    """What a voxel is made of."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    MARROW = 3
    CORTEX = 4
    URINE = 5
    BLADDER_WALL = 6
    RECTAL_WALL = 7
    STOOL = 8
    SEMINAL_VESICLE = 9
    VEIN = 10
    ARTERY = 11
    PLEXUS = 12
    PERIPHERAL_ZONE = 13
    TRANSITION_ZONE = 14
    CAPSULE = 15
    LESION = 16
    SUBTLE_LESION = 17
    STROMAL_NODULE = 18
    HAEMORRHAGE = 19
    INFLAMMATION = 20


class Look(NamedTuple):
    """A tissue's mean signals.

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


LOOKS = {
    Tissue.AIR: Look(0.0, 0, 0.0, 0.0),
    Tissue.FAT: Look(0.52, 400, 0.075, 0.10),
    Tissue.MUSCLE: Look(0.09, 1250, 0.38, 0.22),
    Tissue.MARROW: Look(0.33, 500, 0.10, 0.14),
    Tissue.CORTEX: Look(0.04, 0, 0.03, 0.1),
    Tissue.URINE: Look(1.0, 2900, 1.6, 0.02),
    Tissue.BLADDER_WALL: Look(0.12, 1350, 0.75, 0.12),
    Tissue.RECTAL_WALL: Look(0.19, 1150, 0.7, 0.28),
    Tissue.STOOL: Look(0.06, 600, 0.08, 0.3),
    Tissue.SEMINAL_VESICLE: Look(0.58, 1800, 1.0, 0.35),
    Tissue.VEIN: Look(0.62, 1600, 0.5, 0.15),
    Tissue.ARTERY: Look(0.03, 0, 0.03, 0.1),
    Tissue.PLEXUS: Look(0.28, 1400, 0.5, 0.4),
    Tissue.PERIPHERAL_ZONE: Look(0.50, 1750, 1.0, 0.22),
    Tissue.TRANSITION_ZONE: Look(0.22, 1250, 0.72, 0.28),
    Tissue.CAPSULE: Look(0.12, 1300, 0.7, 0.1),
    Tissue.LESION: Look(0.15, 720, 0.95, 0.14),
    Tissue.SUBTLE_LESION: Look(0.20, 950, 0.92, 0.2),
    Tissue.STROMAL_NODULE: Look(0.18, 930, 0.92, 0.2),
    Tissue.HAEMORRHAGE: Look(0.18, 850, 0.6, 0.25),
    Tissue.INFLAMMATION: Look(0.36, 1050, 1.1, 0.3),
}
"""Means after PI-CAI's examinations; lesions as PI-RADS v2.1 describes them: dark, restricted diffusion. What mimics a
subtle lesion differs from it in one of the images, or in its rim and place alone."""


def table(attribute: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """One attribute of all tissues, to be indexed with a map of tissues."""
    return np.array([getattr(LOOKS[tissue], attribute) for tissue in Tissue], dtype=np.float32)
