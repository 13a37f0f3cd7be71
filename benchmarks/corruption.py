"""How fast cubes are corrupted, step by step, and against the plain loop over windows.

    python -m benchmarks.corruption --json corruption.json

On the CPU everything runs on one core, in processor time; with a GPU the same is timed there too. The best of some
repetitions counts.
"""

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.results import Results
from benchmarks.timing import best_seconds
from zssmnet.config import CorruptionConfig, ShufflingConfig
from zssmnet.corruption import corrupt, sample_keys, swap_x_and_z
from zssmnet.corruption.flip import apply_flip, sample_flip
from zssmnet.corruption.intensity import apply_intensity, sample_intensity
from zssmnet.corruption.painting import apply_painting, sample_painting
from zssmnet.corruption.shuffling import apply_shuffling, sample_shuffling

SHAPE_CXYZ = (4, 64, 64, 16)


def shuffle_in_a_loop(source: np.ndarray, windows: int) -> np.ndarray:
    """Shuffle one channel window by window, as one would write it first."""
    shuffled = source.copy()
    for _ in range(windows):
        size = [random.randint(1, max(1, n // 10)) for n in source.shape]
        start = [random.randint(0, n - s) for n, s in zip(source.shape, size, strict=True)]
        window = tuple(slice(begin, begin + s) for begin, s in zip(start, size, strict=True))
        values = source[window].flatten()
        np.random.shuffle(values)  # noqa: NPY002 (the fastest for few values)
        shuffled[window] = values.reshape(size)
    return shuffled


def time_shuffling(batch: int, repeat: int) -> dict[str, float]:
    """Milliseconds for one shuffled channel, drawing its windows included: in a loop, and all windows together."""
    config = ShufflingConfig(probability=1)
    keys, cubes = sample_keys(batch, torch.Generator().manual_seed(0)), torch.rand(batch, *SHAPE_CXYZ)

    def together() -> None:
        apply_shuffling(cubes, sample_shuffling(keys, SHAPE_CXYZ, config, from_first_channel=True))

    channel = cubes[0, 0].numpy()
    loop = partial(shuffle_in_a_loop, channel, config.windows)
    loop_ms = 1e3 * best_seconds(loop, repeat, clock=time.process_time)
    together_ms = 1e3 * best_seconds(together, repeat, clock=time.process_time) / (batch * SHAPE_CXYZ[0])
    return {"loop_ms": loop_ms, "together_ms": together_ms, "ratio": loop_ms / together_ms}


def time_steps(batch: int, repeat: int, device: str) -> dict[str, float]:
    """Milliseconds a batch for each step and for the whole."""
    config = CorruptionConfig()
    drawn = sample_keys(batch, torch.Generator().manual_seed(0))  # on the CPU, as training has them
    keys, where = drawn.to(device), torch.device(device)
    stored = torch.rand(batch, *SHAPE_CXYZ).half().to(device)
    cubes = stored.float()

    def shuffle() -> None:
        shuffling = sample_shuffling(drawn, SHAPE_CXYZ, config.shuffling, from_first_channel=True, device=where)
        apply_shuffling(cubes, shuffling)

    steps: dict[str, Callable[[], object]] = {
        "flip": lambda: apply_flip(stored, sample_flip(keys, config.flip)),
        "shuffling": shuffle,
        "intensity": lambda: apply_intensity(cubes[:, :3], sample_intensity(keys, config.intensity), 1000),
        "painting": lambda: apply_painting(cubes, sample_painting(keys, SHAPE_CXYZ, config.painting)),
        "whole": lambda: corrupt(swap_x_and_z(stored), drawn, config),
    }
    settle = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    clock = time.perf_counter if device == "cuda" else time.process_time
    return {name: 1e3 * best_seconds(step, repeat, settle, clock) for name, step in steps.items()}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=24, help="cubes in a batch (default: 24)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions, of which the best counts (default: 5)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(1)

    results = Results("corruption", {"batch": options.batch, "repeat": options.repeat}, options.json)
    shuffling = time_shuffling(options.batch, options.repeat)
    results.add("shuffling_one_core", shuffling)
    loop, together = (f"{shuffling[f'{way}_ms']:.2f} ms" for way in ("loop", "together"))
    head = ("on one core", "in a loop", "all windows together", "ratio")
    results.table("Shuffling", head, [("a channel in 10,000 windows", loop, together, f"{shuffling['ratio']:.0f} x")])

    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        milliseconds = time_steps(options.batch, options.repeat, device)
        cubes_per_second = 1e3 * options.batch / milliseconds["whole"]
        name = torch.cuda.get_device_name() if device == "cuda" else "one core"
        results.add(device, {"device": name, "ms": milliseconds, "cubes_per_second": cubes_per_second})
        rows = [(step, f"{value:.1f} ms") for step, value in milliseconds.items()]
        title = f"A batch of {options.batch} cubes on {name}: {cubes_per_second:.0f} cubes/s"
        results.table(title, ("step", "time"), rows)


if __name__ == "__main__":
    main()
