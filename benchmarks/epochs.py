"""Whole epochs as `zssmnet pretrain` runs them, on a set of cubes on disk; called in fresh processes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zssmnet.config import CorruptionConfig, NetworkConfig, PretrainConfig, ShufflingConfig, TrainingConfig
from zssmnet.storage import LocalStorage
from zssmnet.training.acceleration import choose_device
from zssmnet.training.dataset import open_training_data
from zssmnet.training.followers import team_for
from zssmnet.training.team import Job
from zssmnet.training.trainer import Learner, initial_state


def configuration(
    batch: int, channels: list[int], windows: int | None = None, epochs: int = 1, **recipe: Any
) -> PretrainConfig:
    """The published recipe, with these choices; fewer windows make corruption cheap where it does not matter."""
    corruption = CorruptionConfig(shuffling=ShufflingConfig(windows=windows)) if windows else CorruptionConfig()
    first, second, third, fourth, fifth = channels
    network = NetworkConfig(channels=(first, second, third, fourth, fifth))
    training = TrainingConfig(batch_size=batch, epochs=epochs, **recipe)
    return PretrainConfig(network=network, corruption=corruption, training=training)


def one_epoch(cubes: str, **choices: Any) -> dict[str, Any]:
    """One epoch, validation included: its seconds and its losses."""
    config = configuration(**choices)
    start = time.perf_counter()
    training, validation = open_training_data(LocalStorage(Path(cubes)), config.training.batch_size)
    device = choose_device(config.training.device)
    learner = Learner(initial_state(config, device), training, validation, config)
    ready = time.perf_counter()
    result = learner.epoch()
    return {
        "seconds": time.perf_counter() - ready,
        "loading_s": ready - start,
        "training_cubes": len(training),
        "validation_cubes": len(validation),
        "train_loss": result.train_loss,
        "validation_loss": result.validation_loss,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }


def plain_epoch(cubes: str, **choices: Any) -> dict[str, Any]:
    """As one would write it first: all cubes are loaded before training begins."""
    loaded = [np.load(file) for file in sorted(Path(cubes).glob("*.npy"))]
    return one_epoch(cubes, **choices) | {"bytes": sum(one.nbytes for one in loaded)}


def together(cubes: str, **choices: Any) -> dict[str, Any]:
    """Epochs of as many processes as the recipe says; the seconds of each."""
    config = configuration(**choices)
    training, validation = open_training_data(LocalStorage(Path(cubes)), config.training.batch_size)
    device = choose_device(config.training.device)
    seconds, losses = [], []
    with team_for(Job(cubes=str(Path(cubes).absolute()), config=config), device) as team:
        learner = Learner(initial_state(config, device), training, validation, config, team)
        for _ in range(config.training.epochs):
            start = time.perf_counter()
            team.call(another_epoch=True)
            losses.append(learner.epoch().train_loss)
            seconds.append(time.perf_counter() - start)
        team.call(another_epoch=False)
    return {"epochs_s": seconds, "processes": team.size, "losses": losses}
