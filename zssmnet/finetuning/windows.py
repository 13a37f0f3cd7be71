"""Windows of labelled cases to train on, drawn at random; and whole cases, predicted window by window."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Protocol

import torch
from torch import Tensor, nn

from zssmnet.corruption import LAYOUT

Triple = tuple[int, int, int]
_PREDICTED = 4
"""Batches of training in one of prediction, which keeps nothing for gradients."""
_GAMMA, _CONTRAST, _BRIGHTNESS = 0.3, 0.15, 0.1
"""Mild changes of intensity: logarithm of gamma, of the contrast, and the shift, at most."""


class Labelled(Protocol):
    """A case to learn from: images (C, Z, Y, X), scaled to 0..1, and the class of each voxel (Z, Y, X)."""

    @property
    def input_CZYX(self) -> Tensor:  # noqa: N802  (axes)
        """The images."""

    @property
    def label_ZYX(self) -> Tensor:  # noqa: N802
        """The classes, whole numbers."""


def sample_batch(
    cases: Sequence[Labelled], window: Triple, batch_size: int, generator: torch.Generator, intensity: bool = False
) -> tuple[Tensor, Tensor]:
    """Windows (N, C, Z, Y, X) and labels (N, Z, Y, X): every other window lies around a voxel of the foreground.

    Args:
        window: x, y, z in voxels.
        generator: decides on cases, windows, flips (left and right) and intensities.
        intensity: whether brightness, contrast and gamma of each channel change mildly.
    """
    inputs, labels = [], []
    for number in range(batch_size):
        case = cases[int(torch.randint(len(cases), (1,), generator=generator))]
        part = _window(case.label_ZYX, window, generator, around_foreground=number % 2 == 0)
        found, label = case.input_CZYX[:, *part].float(), case.label_ZYX[part].long()
        if torch.rand(1, generator=generator) < 0.5:
            found, label = found.flip(-1), label.flip(-1)
        inputs.append(_changed(found, generator) if intensity else found)
        labels.append(label)
    return torch.stack(inputs).contiguous(memory_format=LAYOUT), torch.stack(labels)


def _changed(image_CZYX: Tensor, generator: torch.Generator) -> Tensor:
    draws = 2 * torch.rand(3, len(image_CZYX), 1, 1, 1, generator=generator) - 1
    gamma, contrast = (draws[0] * _GAMMA).exp(), (draws[1] * _CONTRAST).exp()
    return image_CZYX.clamp(min=0) ** gamma * contrast + draws[2] * _BRIGHTNESS


def _window(
    label_ZYX: Tensor, window: Triple, generator: torch.Generator, around_foreground: bool
) -> tuple[slice, ...]:
    shape, size = label_ZYX.shape, window[::-1]
    draws = torch.rand(4, generator=generator).tolist()
    starts = [int(share * (n - m + 1)) for share, n, m in zip(draws, shape, size, strict=False)]
    foreground = torch.nonzero(label_ZYX) if around_foreground else torch.empty(0)
    if len(foreground):
        place = foreground[int(draws[3] * len(foreground))].tolist()
        # the voxel lies anywhere in the window's middle half
        shifts = [int(m * (0.25 + share / 2)) for share, m in zip(draws, size, strict=False)]
        starts = [min(max(0, at - by), n - m) for at, by, n, m in zip(place, shifts, shape, size, strict=True)]
    return tuple(slice(start, start + m) for start, m in zip(starts, size, strict=True))


@torch.no_grad()
def predict(
    network: nn.Module, inputs_CZYX: Sequence[Tensor], window: Triple, batch_size: int, overlap: float = 0.0
) -> list[Tensor]:
    """Class probabilities (K, Z, Y, X) of whole cases, on the CPU, by windows as large as those of training.

    Args:
        inputs_CZYX: none smaller than the window (x, y, z).
        batch_size: of training.
        overlap: share of a window that the next one repeats, at least; probabilities are averaged there.
    """
    device = next(network.parameters()).device
    network.eval()
    several = _PREDICTED * batch_size
    parts = [_windows(one.shape[1:], window[::-1], overlap) for one in inputs_CZYX]
    tiles = [one[:, *part] for one, own in zip(inputs_CZYX, parts, strict=True) for part in own]
    found = list[Tensor]()
    for start in range(0, len(tiles), several):
        batch = torch.stack(tiles[start : start + several]).float().contiguous(memory_format=LAYOUT)
        found += network(batch.to(device)).softmax(dim=1).cpu()
    whole, remaining = list[Tensor](), iter(found)
    for one, own in zip(inputs_CZYX, parts, strict=True):
        total, times = torch.zeros(len(found[0]), *one.shape[1:]), torch.zeros(one.shape[1:])
        for part, probabilities in zip(own, remaining, strict=False):
            total[:, *part] += probabilities
            times[part] += 1
        whole.append(total / times)
    return whole


def _windows(shape_ZYX: Sequence[int], size_ZYX: Sequence[int], overlap: float) -> list[tuple[slice, ...]]:
    """The windows of a whole case, evenly from end to end of each axis."""
    axes = []
    for n, m in zip(shape_ZYX, size_ZYX, strict=True):
        count = 1 + math.ceil((n - m) / (m * (1 - overlap)))
        starts = [round(number * (n - m) / max(count - 1, 1)) for number in range(count)]
        axes.append([slice(start, start + m) for start in starts])
    return list(product(*axes))
