"""The demonstration: synthetic examinations through every stage, with a small MNet, on the CPU."""

from collections.abc import Sequence
from pathlib import Path

from flows.pipeline import PipelineSummary, ssl_pretraining
from flows.states import summary_of
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


def demonstrate(root: Path, cases: Sequence[str], epochs: int, seed: int) -> PipelineSummary:
    """Make an archive of synthetic examinations below ``root`` and run all stages on it.

    The settings are those with which a small network learns most in a minute of a CPU; only the stages are the same as
    in a real run.
    """
    images, masks = write_archive(root / "archive", cases, seed)
    return summary_of(
        ssl_pretraining,
        str(images),
        str(masks),
        str(root),
        preparation=PreparationConfig(spacing_mm=SPACING_MM),
        cubes=CubesConfig(cubes_per_case=CUBES_PER_CASE, seed=seed),
        pretraining=demo_pretraining(epochs, seed),
    )


def demo_pretraining(epochs: int, seed: int, recipe: Recipe = "masked") -> PretrainConfig:
    """How the demonstration trains: a small network, AdamW, and blocks that are hidden."""
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
