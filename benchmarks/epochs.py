"""Whole epochs as `zssmnet pretrain` runs them, on a set of cubes on disk; called in fresh processes."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from zssmnet.config import CorruptionConfig, NetworkConfig, PretrainConfig, ShufflingConfig, TrainingConfig
from zssmnet.storage import LocalStorage
from zssmnet.training.dataset import open_training_data
from zssmnet.training.fit import fit
from zssmnet.training.precision import choose_device
from zssmnet.training.processes import Job, process_group
from zssmnet.training.trainer import Trainer, initial_state


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
    """One epoch, validation included: its seconds and its losses; of several epochs the last one, and the first's."""
    config = configuration(**choices)
    start = time.perf_counter()
    training, validation = open_training_data(LocalStorage(Path(cubes)), config.training.batch_size)
    device = choose_device(config.training.device)
    trainer = Trainer(initial_state(config, device), training, validation, config)
    times = [time.perf_counter()]
    for _ in range(config.training.epochs):
        result = trainer.epoch()
        times.append(time.perf_counter())
    return {
        "seconds": times[-1] - times[-2],
        "first_s": times[1] - times[0],
        "loading_s": times[0] - start,
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
    """Epochs of as many processes as the recipe says; the seconds of each, of the first with what comes before it."""
    config = configuration(**choices)
    training, validation = open_training_data(LocalStorage(Path(cubes)), config.training.batch_size)
    with process_group(Job(cubes=str(Path(cubes).absolute()), config=config)) as group, TemporaryDirectory() as folder:
        times = [time.perf_counter()]
        ended = fit(
            *(training, validation, config, LocalStorage(Path(folder))),
            on_epoch=lambda state: times.append(time.perf_counter()),
            group=group,
        )
    losses = [result.train_loss for result in ended.progress.history]
    return {"epochs_s": np.diff(times).tolist(), "processes": group.size, "losses": losses}
