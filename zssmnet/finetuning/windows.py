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
) -> tuple[slice, slice, slice]:
    shape, size = label_ZYX.shape, window[::-1]
    draws = torch.rand(4, generator=generator).tolist()
    starts = [int(share * (n - m + 1)) for share, n, m in zip(draws, shape, size, strict=False)]
    foreground = torch.nonzero(label_ZYX) if around_foreground else torch.empty(0)
    if len(foreground):
        place = foreground[int(draws[3] * len(foreground))].tolist()
        # the voxel lies anywhere in the window's middle half
        shifts = [int(m * (0.25 + share / 2)) for share, m in zip(draws, size, strict=False)]
        starts = [min(max(0, at - by), n - m) for at, by, n, m in zip(place, shifts, shape, size, strict=True)]
    z, y, x = (slice(start, start + m) for start, m in zip(starts, size, strict=True))
    return z, y, x


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
    if not inputs_CZYX:
        return []
    device = next(network.parameters()).device
    network.eval()
    places = [list(product(*_starts(one.shape[1:], window[::-1], overlap))) for one in inputs_CZYX]
    tiles = [one[:, *_part(at, window)] for one, starts in zip(inputs_CZYX, places, strict=True) for at in starts]
    batches = [
        torch.stack(tiles[n : n + _PREDICTED * batch_size]) for n in range(0, len(tiles), _PREDICTED * batch_size)
    ]
    found = torch.cat(
        [network(some.float().contiguous(memory_format=LAYOUT).to(device)).softmax(dim=1).cpu() for some in batches]
    )
    whole = []
    for one, starts in zip(inputs_CZYX, places, strict=True):
        total = torch.zeros(found.shape[1], *one.shape[1:])
        times = torch.zeros(one.shape[1:])
        for at in starts:
            part = _part(at, window)
            total[:, *part] += found[0]
            times[part] += 1
            found = found[1:]
        whole.append(total / times)
    return whole


def _starts(shape: Sequence[int], size: Sequence[int], overlap: float) -> list[list[int]]:
    """Where windows begin on each axis, evenly from end to end."""
    starts = []
    for n, m in zip(shape, size, strict=True):
        count = 1 + math.ceil((n - m) / (m * (1 - overlap)))
        starts.append([round(number * (n - m) / max(count - 1, 1)) for number in range(count)])
    return starts


def _part(start_ZYX: Sequence[int], window: Triple) -> tuple[slice, slice, slice]:
    z, y, x = (slice(start, start + m) for start, m in zip(start_ZYX, window[::-1], strict=True))
    return z, y, x
