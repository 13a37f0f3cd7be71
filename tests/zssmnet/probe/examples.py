"""Small labelled cases in memory, and weights for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zssmnet.config import ProbeConfig
from zssmnet.mnet import MNet
from zssmnet.probe.arms import Arm, read_arm
from zssmnet.probe.labels import LabelledCase, LabelledCases

CHANNELS = (2, 2, 2, 2, 2)


def made_cases(count: int, size: tuple[int, int, int] = (4, 16, 16)) -> list[LabelledCase]:
    """Cases with a ball that is bright in DWI and not in T2W; every fifth has none. Balls that are bright, or dark, in
    T2W as well mimic it: no linear rule on voxels tells them apart."""
    cases = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        images = 0.25 + 0.3 * torch.rand(3, *size, generator=generator)
        lesion, bright, dark = (_ball(size, generator) for _ in range(3))
        lesion &= torch.tensor(number % 5 > 0)
        images[2] += 0.4 * (lesion | bright | dark)
        images[0] += 0.4 * (bright & ~lesion) - 0.25 * (dark & ~lesion & ~bright)
        y, x = torch.meshgrid(torch.arange(size[1]), torch.arange(size[2]), indexing="ij")
        gland = ((y - 8) ** 2 + (x - 8) ** 2 < 60).expand(size)
        zones = torch.stack([~gland, gland & (y > 8), gland & (y <= 8)]).float()
        cases.append(LabelledCase(f"{number}_1", torch.cat([images, zones]), lesion.long(), gland))
    return cases


def as_read(cases: Sequence[LabelledCase]) -> LabelledCases:
    """These cases, as if they were read from an archive."""
    by_id = {case.id: case for case in cases}
    return LabelledCases(list(by_id), by_id.__getitem__)


def _ball(size: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    z, y, x = torch.meshgrid(*(torch.arange(n).float() for n in size), indexing="ij")
    height, width = torch.rand(2, generator=generator) * 10 + 3
    return (y - height) ** 2 + (x - width) ** 2 + 4 * (z - 1.5) ** 2 < 12


def small_probe(**changes: Any) -> ProbeConfig:
    settings: dict[str, Any] = {
        "labelled": 4,
        "seeds": 3,
        "steps": 2,
        "learning_rates": (0.01,),
        "head_factors": (1.0,),
        "many_labelled": 8,
        "preset": "cpu",
        "test_cases": 5,
        "tuning_cases": 2,
        "device": "cpu",
    }
    return ProbeConfig(**(settings | changes))


def read_arms(*addresses: str) -> list[Arm]:
    return [read_arm(one) for one in addresses]


def save_weights(path: Path, seed: int = 0) -> str:
    """New weights as a file of pre-training, without a record."""
    torch.manual_seed(seed)
    torch.save({"state_dict": MNet(6, 3, CHANNELS).state_dict()}, path)
    return str(path)
