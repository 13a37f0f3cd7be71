"""Small labelled cases in memory, and weights for them."""

from pathlib import Path
from typing import Any

import torch

from zssmnet.config import ProbeConfig
from zssmnet.mnet import MNet
from zssmnet.probe.labels import LabelledCase

CHANNELS = (2, 2, 2, 2, 2)


def made_cases(count: int, size: tuple[int, int, int] = (4, 16, 16)) -> list[LabelledCase]:
    """Cases with a bright ball as the lesion in noise; every fifth has none."""
    cases = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        images = torch.rand(3, *size, generator=generator)
        z, y, x = torch.meshgrid(*(torch.arange(n).float() for n in size), indexing="ij")
        centre = torch.rand(2, generator=generator) * 8 + 4
        ball = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 + 4 * (z - 1.5) ** 2 < 12) & (number % 5 > 0)
        images[2] += ball * 0.5
        gland = (y - 8) ** 2 + (x - 8) ** 2 < 60
        zones = torch.stack([~gland, gland & (y > 8), gland & (y <= 8)]).float()
        cases.append(LabelledCase(f"c{number}_1", f"c{number}", torch.cat([images, zones]), ball.long(), gland))
    return cases


def small_probe(**changes: Any) -> ProbeConfig:
    settings: dict[str, Any] = {
        "labelled": (2, 4),
        "seeds": 3,
        "looks": (2, 4),
        "learning_rates": (0.01,),
        "test_cases": 5,
        "tuning_cases": 2,
        "device": "cpu",
    }
    return ProbeConfig(**(settings | changes))


def save_weights(path: Path, seed: int = 0) -> str:
    """New weights as a file of pre-training, without a record."""
    torch.manual_seed(seed)
    torch.save({"state_dict": MNet(6, 3, CHANNELS).state_dict()}, path)
    return str(path)
