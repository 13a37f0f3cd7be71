"""What ten minutes on a card have to answer, the most valuable first.

    python -m benchmarks.gpu_check --json gpu_check.json

Each part runs in a fresh process with a limit of its own, and is in the JSON as soon as it is there. Called again with
the same file, it goes on with the parts that are missing or failed. `--tiny` tries all of it with a small network, on a
CPU as well.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.fresh import FreshProcessError, in_fresh_process
from benchmarks.gpu import REAL_SIZES, TINY_SIZES
from benchmarks.results import Results, in_words

BUDGET_S = 560.0
PARTS = {
    "bandwidth": 15,
    "convolutions": 70,
    "steps": 75,
    "eighth": 25,
    "trainer": 50,
    "resumed": 40,
    "refused": 25,
    "compiled": 180,
    "compiled_again": 50,
}
"""Seconds at most of each part of `benchmarks.gpu_check_parts`, in the order in which they run."""


def finished(file: Path) -> dict[str, Any]:
    """The parts of an earlier call that came to their end."""
    try:
        figures: dict[str, Any] = json.loads(file.read_text())["figures"]
    except FileNotFoundError:
        return {}
    return {name: one for name, one in figures.items() if not one.get("trouble") and "error" not in one}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="S", help="seconds (default: 560)")
    parser.add_argument("--tiny", action="store_true", help="a small network and few steps, for a quick try")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="default: cuda")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--json", type=Path, required=True, help="the figures, after each part")
    options = parser.parse_args()
    deadline = time.monotonic() + options.budget
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "There is no GPU here that PyTorch can use; '--tiny --device cpu' tries all of it.\n")
    sizes = replace(TINY_SIZES if options.tiny else REAL_SIZES, device=options.device)
    done = finished(options.json)
    results = Results("gpu_check", sizes.as_json() | {"budget_s": options.budget}, options.json, figures=done)
    print(in_words(results.circumstances), flush=True)
    cache = options.json.with_suffix(".compiled").absolute()  # warm in the part after that which compiles
    for name in options.parts:
        left = deadline - time.monotonic()
        if name in done or left < 5:
            print(f"-- {name}: {'there already' if name in done else 'no time is left'}", flush=True)
            continue
        print(f"-- {name} ({left:.0f} s left)", flush=True)
        try:
            arguments = {"sizes": sizes.as_json()} | ({"cache": str(cache)} if name.startswith("compiled") else {})
            limit = min(PARTS[name] * (20 if options.tiny else 1), left)
            watched = in_fresh_process(f"benchmarks.gpu_check_parts:{name}", arguments, timeout_s=limit)
        except FreshProcessError as error:
            results.add(name, {"error": str(error)})
            print(f"   {error}", flush=True)
            continue
        results.add(name, watched.as_json())
        print(json.dumps(watched.result, indent=1), watched.trouble, flush=True)


if __name__ == "__main__":
    main()
