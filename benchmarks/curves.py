"""Loss curves of short trainings: whether another number type or a compiled network learns the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.random_cubes import draw_cubes
from benchmarks.steps import Channels, Compile, Sizes
from zssmnet.config import NetworkConfig, PretrainConfig, TrainingConfig
from zssmnet.corruption import sample_keys, swap_x_and_z
from zssmnet.report.palette import FAINT
from zssmnet.report.style import heading, legend, new_figure, png_of, without_frame
from zssmnet.training.epoch import training_step
from zssmnet.training.precision import accelerated, gpu_settings, is_captured
from zssmnet.training.step import Step
from zssmnet.training.trainer import initial_state

COLOURS = ("#2f78a8", "#8fb8d4", "#d1495b", "#ffb000", "#4d8b57", "#7b5ea7")
DIFFERENT = 48
"""So many cubes are trained on, again and again."""


@dataclass(frozen=True)
class Course:
    """One training: where its weights, order and corruption come from, and how it is computed.

    Attributes:
        seed: of all of them.
        precision: number type of the convolutions.
        compile: mode of torch.compile.
        learning_rate: of SGD.
    """

    seed: int = 0
    precision: str = "float32"
    compile: Compile = "off"
    learning_rate: float = 0.1


def run(course: Course, sizes: Sizes) -> list[float]:
    """The loss at each of `sizes.steps` steps, on smooth cubes, as a training takes them."""
    device = torch.device(sizes.device)
    config = _config(course, sizes.batch, sizes.channels)
    state = initial_state(config, device)
    network = accelerated(state.model, device, config.training)
    network.train()
    scaler = state.scaler if course.precision == "float16" else None
    computed = Step(network, config.corruption, captured=is_captured(config.training, device))
    cubes = torch.from_numpy(draw_cubes(max(DIFFERENT, sizes.batch), sizes.size, kind="smooth")).to(device)
    losses = torch.zeros(sizes.steps, device=device)
    with gpu_settings(course.precision == "tf32"):
        for step in range(sizes.steps):
            numbers = torch.randperm(len(cubes), generator=state.generator)[: sizes.batch]
            keys = sample_keys(sizes.batch, state.generator)
            batch = swap_x_and_z(cubes.index_select(0, numbers.to(device, non_blocking=True)))
            losses[step], _ = training_step(computed, state.optimizer, batch, keys, scaler=scaler)
    reported: list[float] = losses.tolist()
    return reported


def compare(curves: dict[str, list[float]], window: int) -> dict[str, Any]:
    """How far moving means lie apart.

    Args:
        curves: by name; the first is what the others are compared with, the second its like with another seed.
        window: steps of a mean.
    """
    first, *others = (moving_mean(curve, window) for curve in curves.values())
    differences = {
        name: float(np.abs(first - other).max()) for name, other in zip(list(curves)[1:], others, strict=True)
    }
    level = float(first[-1])
    return {"window": window, "largest_difference": differences, "last_mean": level}


def rows(curves: dict[str, list[float]], compared: dict[str, Any]) -> list[tuple[str, ...]]:
    """A table of what `compare` has found."""
    differences = compared["largest_difference"]
    by_chance = next(iter(differences.values()))
    found: list[tuple[str, ...]] = []
    for name, curve in curves.items():
        last = float(moving_mean(curve, compared["window"])[-1])
        cells = ("", "")
        if name in differences:
            ratio = f"{differences[name] / by_chance:.2f}" if by_chance else ""
            cells = (f"{differences[name]:.2e}", ratio)
        found.append((name, f"{curve[0]:.4f}", f"{last:.4f}", *cells))
    return found


HEAD = ("training", "first loss", "last moving mean", "largest difference to the first", "of that between seeds")


def moving_mean(curve: Sequence[float], window: int) -> npt.NDArray[np.float64]:
    """Means of so many steps in a row."""
    window = min(window, len(curve))
    return np.convolve(curve, np.ones(window) / window, mode="valid")


def draw(curves: dict[str, list[float]], window: int, title: str, file: Path) -> None:
    """Draw moving means, each step's loss faintly behind."""
    figure = new_figure(8.0, 4.4)
    ax = figure.subplots()
    for colour, curve in zip(COLOURS, curves.values(), strict=False):
        ax.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.5, alpha=0.3)
        mean = moving_mean(curve, window)
        ax.plot(len(curve) - len(mean) + 1 + np.arange(len(mean)), mean, color=colour, linewidth=1.5)
    ax.set_yscale("log")
    ax.set_xlabel("step", fontsize=9, color=FAINT)
    ax.set_ylabel("mean squared error", fontsize=9, color=FAINT)
    without_frame(ax)
    heading(figure, title)
    legend(figure, list(zip(COLOURS, curves, strict=False)))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png_of(figure))


def _config(course: Course, batch: int, channels: Channels) -> PretrainConfig:
    training = TrainingConfig.model_validate(
        {
            "batch_size": batch,
            "seed": course.seed,
            "precision": course.precision,
            "compile": course.compile,
            "learning_rate": course.learning_rate,
        }
    )
    return PretrainConfig(network=NetworkConfig(channels=channels), training=training)
