"""The demonstration: synthetic examinations through every stage, with a small MNet, on the CPU."""

import itertools
from pathlib import Path

from flows.pipeline import PipelineSummary, ssl_pretraining
from zssmnet.config import CubesConfig, NetworkConfig, PretrainConfig, TrainingConfig
from zssmnet.errors import ConfigError
from zssmnet.phantom import case_ids, write_archive
from zssmnet.splits import SUBSETS, stable_subset

NETWORK = NetworkConfig(channels=(4, 6, 8, 10, 12))
BATCH_SIZE = 12


def demonstrate(root: Path, cases: int, epochs: int, seed: int) -> PipelineSummary:
    """Make an archive of synthetic examinations below ``root`` and run all stages on it."""
    images, masks = write_archive(root / "archive", evenly_split_cases(cases), seed)
    training = TrainingConfig(epochs=epochs, batch_size=BATCH_SIZE, seed=seed, device="cpu")
    return ssl_pretraining(
        str(images),
        str(masks),
        str(root),
        cubes=CubesConfig(seed=seed),
        pretraining=PretrainConfig(network=NETWORK, training=training),
    )


def evenly_split_cases(count: int) -> list[str]:
    """Ids of synthetic cases that the stable split spreads evenly over the six subsets.

    Raises:
        ConfigError: fewer cases than subsets.
    """
    if count < len(SUBSETS):
        raise ConfigError(f"--cases = {count}: the demo needs at least {len(SUBSETS)}, one for each subset")
    most = -(-count // len(SUBSETS))
    chosen: dict[int, list[str]] = {subset: [] for subset in SUBSETS}
    for case_id in case_ids(100 * count):
        chosen[stable_subset(case_id)].append(case_id)
    rounds = zip(*(ids[:most] for ids in chosen.values()), strict=True)
    return sorted(itertools.islice(itertools.chain.from_iterable(rounds), count))
