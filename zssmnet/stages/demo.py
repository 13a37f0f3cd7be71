"""The demonstration: synthetic examinations through every stage, with a small MNet, on the CPU."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zssmnet.config import (
    CorruptionConfig,
    CubesConfig,
    NetworkConfig,
    PreparationConfig,
    PretrainConfig,
    Recipe,
    TrainingConfig,
)
from zssmnet.phantom import write_archive

SPACING_MM = (1.0, 1.0, 3.0)
CUBES_PER_CASE = 6
CHANNELS = (4, 6, 8, 10, 12)


def demo_run(root: Path, cases: Sequence[str], epochs: int, seed: int) -> dict[str, Any]:
    """Make an archive of synthetic examinations below ``root``; the arguments of `run_pipeline`, or of its flow.

    The settings are those with which a small network learns most in a minute of a CPU; only the stages are the same as
    in a real run.
    """
    images, masks = write_archive(root / "archive", cases, seed)
    return {
        "images_path": str(images),
        "zonal_mask_path": str(masks),
        "root": str(root),
        "preparation": PreparationConfig(spacing_mm=SPACING_MM),
        "cubes": CubesConfig(cubes_per_case=CUBES_PER_CASE, seed=seed),
        "pretraining": demo_pretraining(epochs, seed),
    }


def demo_pretraining(epochs: int, seed: int, recipe: Recipe = "masked") -> PretrainConfig:
    """Training settings of the demonstration: a small network, AdamW, hidden blocks."""
    return PretrainConfig(
        network=NetworkConfig(channels=CHANNELS),
        corruption=CorruptionConfig(recipe=recipe),
        training=TrainingConfig(
            epochs=epochs,
            batch_size=2,
            learning_rate=0.01,
            optimizer="adamw",
            schedule="cosine",
            warm_up_epochs=1,
            calibrated_head=True,
            seed=seed,
            device="cpu",
        ),
    )
