"""What the tests of training train on: few, small, smooth cubes, and a recipe of a fifth of a second an epoch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zssmnet.config import CorruptionConfig, NetworkConfig, PretrainConfig, ShufflingConfig, TrainingConfig
from zssmnet.storage import LocalStorage
from zssmnet.training.dataset import CubeSet

CPU = torch.device("cpu")
SIZE = (16, 16, 4)
COUNTS = (2, 1, 0, 1, 1, 3)
"""Cubes of the six subsets: with batches of two, training drops a cube and validation ends with half a batch."""


def cubes_of(count: int, seed: int = 0, size: tuple[int, ...] = SIZE, dtype: Any = "float32") -> np.ndarray:
    """Smooth cubes (count, 4, x, y, z): images in 0..1, a mask of 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    waves = np.einsum("axyz,nca->ncxyz", places, rng.uniform(-6, 6, (count, 4, 3)))
    cubes = (0.5 + 0.5 * np.sin(waves + rng.uniform(0, 6, (count, 4, 1, 1, 1)))).astype(dtype)
    cubes[:, 3] = np.floor(cubes[:, 3] * 2.999)
    return cubes


def write_cubes(
    folder: Path, counts: Sequence[int] = COUNTS, size: tuple[int, ...] = SIZE, dtype: Any = "float32", seed: int = 0
) -> LocalStorage:
    """The six files of cubes."""
    folder.mkdir(parents=True, exist_ok=True)
    for subset, count in enumerate(counts):
        np.save(cubes_file(folder, subset, size), cubes_of(count, 10 * seed + subset, size, dtype))
    return LocalStorage(folder)


def cubes_file(folder: Path, subset: int, size: tuple[int, ...] = SIZE) -> Path:
    return folder / f"bat_12_s_{'x'.join(map(str, size))}_{subset}.npy"


def small_config(**training: Any) -> PretrainConfig:
    recipe: dict[str, Any] = {"epochs": 2, "batch_size": 2, "halve_every": 2, "device": "cpu"}
    return PretrainConfig(
        network=NetworkConfig(channels=(2, 2, 2, 2, 2)),
        corruption=CorruptionConfig(shuffling=ShufflingConfig(windows=50)),
        training=TrainingConfig(**(recipe | training)),
    )


class WatchedCubes(CubeSet):
    """Cubes that remember which of them were taken."""

    def __init__(self, files: Sequence[np.ndarray]) -> None:
        super().__init__(files)
        self.taken: list[list[int]] = []

    def batch(self, indices: torch.Tensor, *, pinned: bool = False) -> torch.Tensor:
        self.taken.append(indices.tolist())
        return super().batch(indices, pinned=pinned)


def saturate(weights: dict[str, torch.Tensor], head: Sequence[float] = (100.0, 100.0, 100.0)) -> None:
    """Make MNet answer the same to everything; by default exactly 1, so that no gradient flows.

    Args:
        head: weights of T2W's, ADC's and DWI's logits, which are some times as large.
    """
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weight.fill_(0)
        elif name.endswith("norm.bias"):
            weight.fill_(1)
        elif name.startswith("outputs."):
            weight.copy_(torch.tensor(head).view(-1, 1, 1, 1, 1).expand_as(weight))


class StoppedError(Exception):
    """A run comes to a sudden end."""


def stop(*_: object) -> None:
    raise StoppedError


def stopping_at(epoch: int) -> Callable[[Any], None]:
    """An ``on_epoch`` that ends the run in this epoch."""

    def on_epoch(state: Any) -> None:
        if state.progress.epoch == epoch:
            raise StoppedError

    return on_epoch


def bits(content: Any) -> Any:
    """Nested content that can be compared with ``==``, tensors by their bits."""
    if isinstance(content, torch.Tensor):
        return (content.dtype, tuple(content.shape), content.detach().cpu().numpy().tobytes())
    if isinstance(content, dict):
        return {name: bits(value) for name, value in content.items()}
    return [bits(value) for value in content] if isinstance(content, list | tuple) else content
