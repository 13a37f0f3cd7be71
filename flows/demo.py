"""The demonstration: synthetic examinations through every stage, with a small MNet, on the CPU."""

from collections.abc import Sequence
from pathlib import Path

from flows.pipeline import PipelineSummary, ssl_pretraining
from zssmnet.config import CubesConfig, NetworkConfig, PretrainConfig, TrainingConfig
from zssmnet.phantom import write_archive

NETWORK = NetworkConfig(channels=(4, 6, 8, 10, 12))
BATCH_SIZE = 12


def demonstrate(root: Path, cases: Sequence[str], epochs: int, seed: int) -> PipelineSummary:
    """Make an archive of synthetic examinations below ``root`` and run all stages on it."""
    images, masks = write_archive(root / "archive", cases, seed)
    training = TrainingConfig(epochs=epochs, batch_size=BATCH_SIZE, seed=seed, device="cpu")
    return ssl_pretraining(
        str(images),
        str(masks),
        str(root),
        cubes=CubesConfig(seed=seed),
        pretraining=PretrainConfig(network=NETWORK, training=training),
    )
