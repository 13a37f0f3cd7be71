"""Cutting cubes: memory stays the same however many cases there are, and reading takes the time.

    python -m benchmarks.cubes --json cubes.json

The plain way holds all cubes of the subset as float64 and saves them at the end. Each is tried in a fresh process, with
few and with many cases: one prepared phantom case under many ids.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

import zssmnet.preparation.cubes
from benchmarks.fresh import in_fresh_process
from benchmarks.results import MB, Results
from zssmnet.config import CubesConfig, PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.data.image_io import array_of, read_image
from zssmnet.phantom import GridSpec, case_ids, write_archive
from zssmnet.preparation.cubes import cube_starts, cut_subset, padded, prepared_cases, scaled_volume
from zssmnet.preparation.prepare import prepared_keys, publish_prepared
from zssmnet.storage import LocalStorage

SUBSET = 0
CENTRE = (0.0, 0.0, 0.0)
REAL, SMALL = (384, 384, 19), (96, 96, 16)
"""Matrices of T2W at the target spacing: as in PI-CAI, and for a quick try."""


def write_prepared(folder: Path, count: int, matrix: tuple[int, int, int]) -> None:
    """So many prepared cases of one subset: one, and copies of its files under other ids."""
    grid = GridSpec.centred(matrix, (0.5, 0.5, 3.0), CENTRE)
    first, *others = case_ids(count)
    prepared = LocalStorage(folder)
    with tempfile.TemporaryDirectory() as raw:
        images, masks = (LocalStorage(path) for path in write_archive(Path(raw), [first], grids=[grid]))
        (case,) = take_inventory(images, masks).cases
        publish_prepared(case, SUBSET, images, masks, prepared, PreparationConfig())
    for other in others:
        for source, target in zip(prepared_keys(first, SUBSET), prepared_keys(other, SUBSET), strict=True):
            shutil.copyfile(folder / source, folder / target)


def cut(prepared: str, output: str) -> dict[str, float]:
    """As here: each cube is written when it is cut. Seconds, and those in which files were read."""
    reading = _Timed(read_image)
    vars(zssmnet.preparation.cubes)["read_image"] = reading
    start = time.perf_counter()
    cut_subset(SUBSET, LocalStorage(prepared), LocalStorage(output), CubesConfig())
    return {"seconds": time.perf_counter() - start, "reading_s": reading.seconds, "bytes": _size(Path(output))}


def cut_plainly(prepared: str, output: str) -> dict[str, float]:
    """As one would write it first: all cubes in a list, as float64, saved at the end."""
    config, data, cubes = CubesConfig(), LocalStorage(prepared), []
    reading = _Timed(read_image)
    start = time.perf_counter()
    for case_id in prepared_cases(data, SUBSET):
        images = [reading(data.local(key)) for key in prepared_keys(case_id, SUBSET)]  # kept: arrays are views of them
        volumes = [array_of(image) for image in images]
        scaled = scaled_volume((volumes[0], volumes[1], volumes[2]), volumes[3])
        volume = padded(scaled, config.size).astype(np.float64)
        for begin in cube_starts(case_id, volume.shape[1:], config):
            window = tuple(slice(low, low + size) for low, size in zip(begin, config.size, strict=True))
            cubes.append(volume[(slice(None), *window)].copy())
    Path(output).mkdir(parents=True, exist_ok=True)
    with (Path(output) / "cubes.npy").open("wb") as stream:
        np.save(stream, np.array(cubes))
        stream.flush()
        os.fsync(stream.fileno())
    return {"seconds": time.perf_counter() - start, "reading_s": reading.seconds, "bytes": _size(Path(output))}


class _Timed:
    """A function, and the seconds that went into it."""

    def __init__(self, function: Callable[[Path], sitk.Image]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, path: Path) -> sitk.Image:
        start = time.perf_counter()
        try:
            return self._function(path)
        finally:
            self.seconds += time.perf_counter() - start


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.npy"))


def measure(folder: Path, count: int, matrix: tuple[int, int, int]) -> dict[str, Any]:
    """Both ways with so many cases."""
    prepared = folder / f"prepared_{count}"
    write_prepared(prepared, count, matrix)
    found = {}
    for way, function in (("here", "cut"), ("plainly", "cut_plainly")):
        output = folder / f"{way}_{count}"
        arguments = {"prepared": str(prepared), "output": str(output)}
        found[way] = in_fresh_process(f"benchmarks.cubes:{function}", arguments).as_json()
        shutil.rmtree(output)
    shutil.rmtree(prepared)
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs=2, default=[20, 80], help="few and many cases (default: 20 80)")
    parser.add_argument("--tiny", action="store_true", help="small images, for a quick try")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    matrix = SMALL if options.tiny else REAL

    results = Results("cubes", {"cases": options.cases, "matrix": matrix, "subset": 1}, options.json)
    with tempfile.TemporaryDirectory(prefix="zssmnet-bench-") as folder:
        found = {count: measure(Path(folder), count, matrix) for count in options.cases}
    results.add("by_cases", found)
    few, many = (found[count] for count in options.cases)
    head = ("cutting the cubes of a subset", "plainly", "here", "ratio")
    results.table("Cubes, 12 a case", head, _rows(options.cases, few, many))


def _rows(cases: list[int], few: dict[str, Any], many: dict[str, Any]) -> list[tuple[str, ...]]:
    plain, here = many["plainly"], many["here"]
    rows: list[tuple[str, ...]] = []
    for count, found in zip(cases, (few, many), strict=True):
        grown = [found[way]["anonymous_grown_bytes"] / MB for way in ("plainly", "here")]
        ratio = f"{grown[0] / grown[1]:.1f} x" if grown[1] else ""
        rows.append((f"memory taken, {count} cases", f"{grown[0]:.0f} MB", f"{grown[1]:.0f} MB", ratio))
    speed = [1e3 * one["result"]["seconds"] / cases[1] for one in (plain, here)]
    rows.append(("time a case", f"{speed[0]:.0f} ms", f"{speed[1]:.0f} ms", f"{speed[0] / speed[1]:.1f} x"))
    shares = [one["result"]["reading_s"] / one["result"]["seconds"] for one in (plain, here)]
    rows.append(("of which reading", *(f"{share:.0%}" for share in shares), ""))
    written = [one["result"]["bytes"] / MB / one["result"]["seconds"] for one in (plain, here)]
    rows.append(("cubes written", *(f"{rate:.0f} MB/s" for rate in written), ""))
    return rows


if __name__ == "__main__":
    main()
