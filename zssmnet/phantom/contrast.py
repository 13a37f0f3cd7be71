"""How tissues look in one case: a patient's and a scanner's share of the contrast, drawn anew for each."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from zssmnet.phantom.anatomy import Labels, Tissue, table
from zssmnet.phantom.grid import Floats

_SHARES = {"t2w": 1.0, "adc": 0.5, "epi": 1.0, "texture": 1.0}
"""Of the spread, by which tissues differ in each signal: ADC, a physical quantity, differs least."""
_ZONES = np.array([Tissue.AIR, Tissue.PERIPHERAL_ZONE, Tissue.TRANSITION_ZONE], np.uint8)
"""Tissue of each label of a zonal mask."""


@dataclass(frozen=True)
class Contrast:
    """The contrasts of a case.

    Attributes:
        factors: by signal (`Tissue`'s attributes), a factor for each tissue.
        gains: of the scanner, in T2W and in DWI.
        biases: of T2W and of the echo-planar images: standard deviation of the bias field's logarithm.
    """

    factors: dict[str, Floats]
    gains: tuple[float, float] = (1.0, 1.0)
    biases: tuple[float, float] = (0.12, 0.2)

    @classmethod
    def sample(cls, rng: np.random.Generator, spread: float) -> Self:
        """Draw a case's contrasts; with a spread of 0 nothing is drawn, and all cases are alike."""
        if not spread:
            return cls({name: np.ones(len(Tissue), np.float32) for name in _SHARES})
        deviations = {name: spread * share * rng.standard_normal(len(Tissue)) for name, share in _SHARES.items()}
        gains, biases = np.exp(1.5 * spread * rng.standard_normal(2)), rng.uniform(0.05, 0.35, 2)
        factors = {name: np.exp(one).astype(np.float32) for name, one in deviations.items()}
        return cls(factors, (float(gains[0]), float(gains[1])), (float(biases[0]), float(biases[1])))

    def signal(self, name: str, tissues_zyx: Labels, zones_zyx: Labels) -> Floats:
        """A signal of each voxel, axes (z, y, x); a lesion's, or a mimic's, follows the zone in which it lies."""
        factors = self.factors[name]
        own, of_zone = factors[tissues_zyx], factors[_ZONES[zones_zyx]]
        signal: Floats = table(name)[tissues_zyx] * np.where(tissues_zyx >= Tissue.LESION, own**0.5 * of_zone, own)
        return signal
