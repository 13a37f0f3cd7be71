"""What a mapped task costs over the work itself, and what a second run costs that has nothing to do.

    python -m benchmarks.orchestration --json orchestration.json

`zssmnet prepare` runs as a user runs it, with the server that Prefect starts for it, on many small cases; the plain way
is a loop over `publish_prepared`. Seconds are those of the clock, processor seconds those of all
processes together: tasks run side by side on the cores, the loop does not.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fresh import Sampler, family, in_fresh_process
from benchmarks.many_cases import write_many_cases
from benchmarks.results import MB, Results
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.data.splits import stable_subset
from zssmnet.preparation.prepare import publish_prepared
from zssmnet.storage import LocalStorage

PERIOD_S = 0.5


def loop(images: str, masks: str, output: str) -> dict[str, float]:
    """Prepare all cases, one after the other; called in a fresh process."""
    sources = LocalStorage(images), LocalStorage(masks)
    before, start = time.process_time(), time.perf_counter()
    for case in take_inventory(*sources).cases:
        publish_prepared(case, stable_subset(case.id), *sources, LocalStorage(output), PreparationConfig())
    return {"seconds": time.perf_counter() - start, "processor_s": time.process_time() - before}


def command(folder: Path, images: Path, masks: Path) -> dict[str, Any]:
    """`zssmnet prepare`, its memory and that of its server watched."""
    arguments = ["--images_path", str(images), "--zonal_mask_path", str(masks), "--output_path", str(folder / "data")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(folder / "prefect")}
    before, start = _children_s(), time.perf_counter()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "prepare", *arguments],
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            with Sampler(lambda: family(process.pid), PERIOD_S) as sampler:
                status = process.wait()
        finally:
            process.kill()
    seconds = time.perf_counter() - start
    lines = (folder / "said").read_text(errors="replace").strip().splitlines() or [""]
    if status:
        raise SystemExit(f"zssmnet prepare ended with status {status}: {lines[-1]}")
    anonymous = [taken for _, taken, _ in sampler.seen]
    return {
        "seconds": seconds,
        "processor_s": _children_s() - before,
        "said": next((line for line in reversed(lines) if " cases prepared, " in line), ""),
        "anonymous_bytes": anonymous,
        "middle_bytes": _largest(anonymous, 1),
        "end_bytes": _largest(anonymous, 2),
    }


def _largest(values: list[int], third: int) -> int:
    """The largest value of a third: 0 the first, 1 the middle, 2 the last."""
    size = len(values) // 3
    return max(values[third * size : (third + 1) * size] or values or [0])


def _children_s() -> float:
    """Processor seconds of all processes that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1500, help="small cases (default: 1500)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()

    results = Results("orchestration", {"cases": options.cases}, options.json)
    with tempfile.TemporaryDirectory(prefix="zssmnet-bench-") as name:
        folder = Path(name)
        images, masks = write_many_cases(folder / "archive", options.cases)
        arguments = {"images": str(images), "masks": str(masks), "output": str(folder / "plain")}
        found: dict[str, Any] = {"loop": in_fresh_process("benchmarks.orchestration:loop", arguments).as_json()}
        for run in ("first", "second"):
            found[run] = command(folder, images, masks)
            results.add("runs", found)
    head = (f"preparing {options.cases} small cases", "plain loop", "zssmnet prepare", "over the work, a case")
    results.table("Orchestration", head, _rows(found, options.cases))
    middle, end = (found["first"][f"{part}_bytes"] / MB for part in ("middle", "end"))
    results.note(
        f"Memory of the command and its server: {middle:.0f} MB at most in the middle, {end:.0f} MB at the end."
    )


def _rows(found: dict[str, Any], cases: int) -> list[tuple[str, ...]]:
    plain = found["loop"]["result"]
    rows: list[tuple[str, ...]] = []
    for kind, name in (("seconds", "first run"), ("processor_s", "first run, processor seconds")):
        over = 1e3 * (found["first"][kind] - plain[kind]) / cases
        rows.append((name, f"{plain[kind]:.1f} s", f"{found['first'][kind]:.1f} s", f"{over:.1f} ms"))
    rows.append(("second run, nothing new", "", f"{found['second']['seconds']:.1f} s", ""))
    return rows


if __name__ == "__main__":
    main()
