"""Whether a training in bfloat16 learns what one in float32 does, on the CPU with a small network.

    python -m benchmarks.loss_curves --json loss_curves.json --png loss_curves.png

The largest difference of the two curves' moving means is held against that of two float32 trainings with different
seeds: what chance does anyway.
"""

import argparse
from pathlib import Path

from benchmarks.curves import HEAD, Course, compare, draw, rows, run
from benchmarks.results import Results
from benchmarks.steps import Sizes

CHANNELS = (4, 6, 8, 10, 12)
COURSES = {
    "float32": Course(),
    "float32, another seed": Course(seed=1),
    "bfloat16": Course(precision="bfloat16"),
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="steps of each training (default: 200)")
    parser.add_argument("--batch", type=int, default=8, help="cubes in a batch (default: 8)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--png", type=Path, help="draw the curves into this file")
    options = parser.parse_args()

    sizes = Sizes(options.batch, CHANNELS, (32, 32, 8), "cpu", options.steps)
    results = Results("loss_curves", sizes.as_json(), options.json)
    curves: dict[str, list[float]] = {}
    for name, course in COURSES.items():
        curves[name] = run(course, sizes)
        results.add("curves", curves)
    compared = compare(curves, window=max(1, options.steps // 10))
    results.add("compared", compared)
    results.table(f"Loss over {options.steps} steps on the CPU", HEAD, rows(curves, compared))
    if options.png:
        draw(curves, compared["window"], "Loss, float32 and bfloat16 (CPU, small network)", options.png)


if __name__ == "__main__":
    main()
