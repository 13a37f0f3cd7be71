"""Training on more cubes than the process may hold in memory, and a step on the CPU against the plain one.

    python -m benchmarks.training --json training.json

The limit is the system's (RLIMIT_DATA): so much memory for data beyond what the process has when it begins. Mapped
files do not count, as the system takes their pages back when it needs them. The cubes are float64, as the published
program writes them, the network is small and shuffling has few windows, since memory is what is asked for here.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.fresh import FreshProcessError, in_fresh_process
from benchmarks.random_cubes import REAL, Triple, write_set
from benchmarks.results import GIB, MB, Results
from benchmarks.steps import PLAIN, Sizes, measure
from zssmnet.preparation.cubes import CHANNEL_COUNT

CHANNELS = [2, 2, 2, 2, 2]
WINDOWS = 100


def under_limit(folder: Path, limit_bytes: int, batch: int) -> dict[str, Any]:
    """An epoch as here, and with all cubes loaded, under the same limit."""
    choices = {"batch": batch, "channels": CHANNELS, "windows": WINDOWS, "device": "cpu"}
    found: dict[str, Any] = {}
    for way, function in (("here", "one_epoch"), ("plainly", "plain_epoch")):
        try:
            watched = in_fresh_process(f"benchmarks.epochs:{function}", {"cubes": str(folder)} | choices, limit_bytes)
            found[way] = watched.as_json()
        except FreshProcessError as error:
            found[way] = {"error": str(error)}
    return found


def step_on_cpu(tiny: bool, steps: int) -> dict[str, Any]:
    """A step with channels first, as one would write it, and as here."""
    size: Triple = (32, 32, 8) if tiny else REAL
    sizes = Sizes(batch=2 if tiny else 4, channels=(8, 12, 16, 20, 24), size=size, device="cpu", steps=steps)
    here = replace(PLAIN, channels_last=True)
    found = {"plainly": measure(PLAIN, sizes, 1), "here": measure(here, sizes, 1)}
    return found | {"sizes": sizes.as_json(), "threads": torch.get_num_threads()}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set-gib", type=float, default=3.0, help="size of the set of cubes (default: 3)")
    parser.add_argument("--limit-gib", type=float, default=1.5, help="memory for data beyond the base (default: 1.5)")
    parser.add_argument("--batch", type=int, default=24, help="cubes in a batch of that epoch (default: 24)")
    parser.add_argument(
        "--steps", type=int, default=7, help="steps on the CPU, of which the median counts (default: 7)"
    )
    parser.add_argument("--tiny", action="store_true", help="small cubes, for a quick try")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    size: Triple = (32, 32, 8) if options.tiny else REAL

    reported = {"set_gib": options.set_gib, "limit_gib": options.limit_gib, "size": size, "channels": CHANNELS}
    reported |= {"windows": WINDOWS, "dtype": "float64", "batch": options.batch}
    results = Results("training", reported, options.json)
    cubes = int(options.set_gib * GIB) // (8 * CHANNEL_COUNT * size[0] * size[1] * size[2])
    with tempfile.TemporaryDirectory(prefix="zssmnet-bench-") as folder:
        write_set(Path(folder), cubes * 5 // 6, cubes - cubes * 5 // 6, size, dtype="float64")
        found = under_limit(Path(folder), int(options.limit_gib * GIB), options.batch)
    results.add("under_limit", found)
    title = f"An epoch on {options.set_gib:g} GiB of cubes in a process limited to {options.limit_gib:g} GiB more"
    results.table(title, ("way", "outcome", "anonymous memory taken", "files mapped at most"), _rows(found))
    step = step_on_cpu(options.tiny, options.steps)
    results.add("step_on_cpu", step)
    plain, here = (step[way]["median_ms"] for way in ("plainly", "here"))
    head = ("training on the CPU", "plainly", "here", "ratio")
    channels = ", ".join(map(str, step["sizes"]["channels"]))
    name = f"a step of {step['sizes']['batch']} cubes, channels {channels}, {step['threads']} threads"
    results.table("A step", head, [(name, f"{plain:.0f} ms", f"{here:.0f} ms", f"{plain / here:.1f} x")])


def _rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for way, one in found.items():
        if "error" in one:
            rows.append((way, f"fails: {_short(one['error'])}", "", ""))
            continue
        outcome = f"done in {one['result']['seconds']:.0f} s"
        taken, mapped = one["anonymous_grown_bytes"] / MB, one["peak_bytes"]["mapped"] / MB
        rows.append((way, outcome, f"{taken:.0f} MB", f"{mapped:.0f} MB"))
    return rows


def _short(error: str) -> str:
    """The system's words, without the name of the function."""
    return error.partition(": ")[2]


if __name__ == "__main__":
    main()
