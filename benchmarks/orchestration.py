"""What `zssmnet prepare` costs beside a plain script that does the same, and beside the import of Prefect's server.

    python -m benchmarks.orchestration --json orchestration.json

Synthetic examinations of real size, grid unchanged. Each program runs in a process of its own, one after the other, and
all of them again for each repetition; the best counts, for other programs on the machine only add. Processor seconds
are those of the process and of all that it starts; memory is the largest that was resident, with mapped files. Then the
cases are prepared in threads and in processes, one a core, in turn; there, memory is that of all processes together,
without mapped files.
"""

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.fresh import Sampler, family, in_fresh_process, memory
from benchmarks.preparation import GRIDS, SMALL_GRIDS
from benchmarks.results import MB, Results
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.data.splits import stable_subset
from zssmnet.phantom import write_archive
from zssmnet.runner import core_count
from zssmnet.stages.prepare import CaseToPrepare, prepare_part
from zssmnet.storage import LocalStorage

SCRIPT, COMMAND, SERVER, LIBRARY = "plain script", "zssmnet prepare", "import Prefect's server", "import SimpleITK"
LOOK_S = 0.01
KINDS = ("threads", "processes, forked", "processes, spawned")


def programs(images: Path, masks: Path, output: Path) -> dict[str, list[str]]:
    """What is compared: arguments of Python."""
    return {
        COMMAND: ["-m", "zssmnet", "prepare", *_flags(images, masks, output / "command")],
        SCRIPT: ["-m", "benchmarks.plain_preparation", *map(str, (images, masks, output / "script"))],
        SERVER: ["-c", "import prefect.server.api.server"],
        LIBRARY: ["-c", "import SimpleITK"],
    }


def _flags(images: Path, masks: Path, output: Path) -> list[str]:
    folders = {"--images_path": images, "--zonal_mask_path": masks, "--output_path": output}
    return [word for flag, folder in folders.items() for word in (flag, str(folder))]


def cost(arguments: list[str]) -> dict[str, Any]:
    """Run Python with these arguments: seconds, processor seconds, bytes of memory, and its last line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as home:
        environment |= {"PREFECT_HOME": home}
        start = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], stdout=said, stderr=subprocess.STDOUT, env=environment)
        ended, peak = 0, 0
        while not ended:
            time.sleep(LOOK_S)
            peak = max(peak, memory(process.pid).get("together", 0))  # of rusage, it would be at least ours
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = (said.read().decode(errors="replace").strip().splitlines() or [""])[-1]
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with status {process.returncode}: {last}")
    return {
        "seconds": seconds,
        "processor_s": used.ru_utime + used.ru_stime,
        "bytes": peak,
        "said": last,
    }


def compare(archive: tuple[Path, Path], folder: Path, repeat: int) -> dict[str, dict[str, Any]]:
    """The best of each program, and all that were measured."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(repeat):
        for name, arguments in programs(*archive, folder / str(number)).items():
            found.setdefault(name, []).append(cost(arguments))
    return {
        name: {
            "seconds": min(one["seconds"] for one in all_),
            "processor_s": min(one["processor_s"] for one in all_),
            "bytes": max(one["bytes"] for one in all_),
            "said": all_[0]["said"],
            "all": all_,
        }
        for name, all_ in found.items()
    }


def pooled(kind: str, images: str, masks: str, output: str, workers: int) -> dict[str, float]:
    """Prepare all cases in a pool: seconds, processor seconds and memory together; called in a fresh process."""
    sources = LocalStorage(images), LocalStorage(masks)
    parts = [
        CaseToPrepare(case, stable_subset(case.id), images, masks, output, PreparationConfig())
        for case in take_inventory(*sources).cases
    ]
    before, start = _processor_s(), time.perf_counter()
    with Sampler(lambda: family(os.getpid())) as sampler, _pool(kind, workers) as pool:
        list(pool.map(prepare_part, parts))
    return {
        "seconds": time.perf_counter() - start,
        "processor_s": _processor_s() - before,
        "anonymous_bytes": sampler.peak()["anonymous"],
    }


def _pool(kind: str, workers: int) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(workers)
    method = "fork" if kind.endswith("forked") else "spawn"
    return ProcessPoolExecutor(workers, multiprocessing.get_context(method))


def _processor_s() -> float:
    """Of this process, and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def pools(archive: tuple[Path, Path], folder: Path, repeat: int) -> dict[str, dict[str, float]]:
    """Each kind of pool: its best repetition in seconds of the clock."""
    found: dict[str, list[dict[str, float]]] = {}
    for number in range(repeat):
        for kind in KINDS:
            arguments = {"images": str(archive[0]), "masks": str(archive[1]), "workers": core_count()}
            arguments |= {"kind": kind, "output": str(folder / f"{kind} {number}")}
            found.setdefault(kind, []).append(in_fresh_process("benchmarks.orchestration:pooled", arguments).result)
    return {kind: min(all_, key=lambda one: one["seconds"]) for kind, all_ in found.items()}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="*", default=[1, 12], help="cases of the programs (default: 1 12)")
    parser.add_argument("--pooled", type=int, nargs="*", default=[12, 24], help="cases of pools (default: 12 24)")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, of which the best counts (default: 3)")
    parser.add_argument("--tiny", action="store_true", help="small images, for a quick try")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()

    configuration = {"cases": options.cases, "pooled": options.pooled, "repeat": options.repeat}
    results = Results("orchestration", configuration, options.json)
    grid = next(iter((SMALL_GRIDS if options.tiny else GRIDS).values()))
    with tempfile.TemporaryDirectory(prefix="zssmnet-bench-") as name:
        for count in sorted({*options.cases, *options.pooled}):
            folder = Path(name) / str(count)
            archive = write_archive(folder / "archive", count, grids=[grid])
            if count in options.cases:
                programs_found = compare(archive, folder, options.repeat)
                results.add(f"programs_{count}", programs_found)
                head = (f"{count} cases, grid unchanged", "seconds", "processor", "memory", "processor, in its parts")
                results.table(f"Commands, {count} cases", head, _program_rows(programs_found))
            if count in options.pooled:
                found = pools(archive, folder, options.repeat)
                results.add(f"pools_{count}", found)
                head = (f"{count} cases, {core_count()} at once", "seconds", "processor", "memory")
                results.table(f"Threads and processes, {count} cases", head, _pool_rows(found))


def _program_rows(found: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    ours = found[COMMAND]["processor_s"]
    return [(name, *_cells(one, "bytes"), f"{ours / one['processor_s']:.2f}") for name, one in found.items()]


def _pool_rows(found: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    return [(kind, *_cells(one, "anonymous_bytes")) for kind, one in found.items()]


def _cells(one: dict[str, Any], memory: str) -> tuple[str, str, str]:
    return f"{one['seconds']:.2f} s", f"{one['processor_s']:.2f} s", f"{one[memory] / MB:.0f} MB"


if __name__ == "__main__":
    main()
