"""An ensemble that makes zonal masks: it finds the gland, coarsely, then the zones in a box around it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor, nn

from zssmnet.config import ZonesConfig
from zssmnet.finetuning.windows import Triple, predict
from zssmnet.preparation.cropping import bounding_box
from zssmnet.training.precision import gpu_settings
from zssmnet.zones.masks import agreement, largest_piece, mask_of
from zssmnet.zones.views import FINDER_WINDOW, View, around_gland, middle_of_field, onto_t2w

OVERLAP = 0.25
"""Share of a window that the next one repeats, where whole views are predicted."""
_predicting = threading.Lock()
"""Cases are read side by side; a network uses all cores, or the GPU, for one."""


@dataclass(frozen=True)
class Member:
    """Two networks that give logits (N, K, Z, Y, X): of gland (`middle_of_field`) and zones (`around_gland`)."""

    finder: nn.Module
    zones: nn.Module


@dataclass(frozen=True)
class Segmented:
    """A case's zonal mask on T2W's grid, empty if no gland was found; and the Dice between the members by part."""

    mask: sitk.Image
    agreed: dict[str, float]


@dataclass(frozen=True)
class Ensemble:
    """Members whose probabilities are averaged, and how they were trained."""

    members: Sequence[Member]
    config: ZonesConfig

    def segment(self, images: Sequence[sitk.Image]) -> Segmented:
        """The zonal mask of a case.

        Args:
            images: those that the networks were trained with, on T2W's grid, T2W first.
        """
        t2w, field = images[0], middle_of_field(images)
        foreground = torch.stack(self._each("finder", field, FINDER_WINDOW)).mean(dim=0)[1:]
        gland = bounding_box(field.in_grid(largest_piece(field.cropped(foreground)[0] > 0.5)))
        if gland is None:
            nothing = sitk.Image(t2w.GetSize(), sitk.sitkUInt8)
            nothing.CopyInformation(t2w)
            return Segmented(nothing, {})
        scale = self.config.scale
        view = around_gland(images, gland, field.grid, scale.spacing_mm, scale.window)
        cropped = [view.cropped(one) for one in self._each("zones", view, scale.window)]
        zones, region = onto_t2w(np.mean(cropped, axis=0), view, t2w)
        return Segmented(mask_of(zones, region, t2w), agreement([one.argmax(axis=0) for one in cropped]))

    def _each(self, kind: Literal["finder", "zones"], view: View, window: Triple) -> list[Tensor]:
        """Probabilities (K, Z, Y, X) in a view by each member."""
        networks, batch = [getattr(one, kind) for one in self.members], self.config.scale.batch_size
        with _predicting, gpu_settings(tf32=False):
            return [predict(one, [view.input_CZYX], window, batch, OVERLAP)[0] for one in networks]
