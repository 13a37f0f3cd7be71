"""Everything that is to be known of a GPU, in one command and within ten minutes.

    python -m benchmarks.gpu --json gpu.json --png gpu_loss_curves.png

Each part runs in a fresh process, is shown as soon as it is there, and is in the JSON from then on; a part that fails
or takes too long is reported, and the next one begins. What the time does not allow is left out, and reported. `--tiny`
tries all of it with a small network, on a CPU as well.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch

from benchmarks import gpu_tables as tables
from benchmarks.curves import HEAD, compare, draw, rows
from benchmarks.fresh import FreshProcessError, Watched, in_fresh_process
from benchmarks.kernels import forward_gflop, peak_tflops
from benchmarks.random_cubes import PICAI, REAL, write_set
from benchmarks.results import GIB, Results, in_words
from benchmarks.steps import MODES, Compile, Sizes

REAL_SIZES = Sizes(24, (32, 48, 64, 80, 96), REAL, "cuda", 15)
TINY_SIZES = Sizes(2, (2, 2, 2, 2, 2), (32, 32, 8), "cpu", 2)
MARGIN_S = 5.0
"""Kept for the end, when everything is written."""


@dataclass
class Session:
    """What is measured, and until when.

    Attributes:
        sizes: of everything.
        set_sizes: training and validation cubes of an epoch.
        curve_steps: of each loss curve.
        modes: of torch.compile.
        deadline: as time.monotonic tells it.
        folder: for files of cubes.
        png: where loss curves are drawn.
        found: what came of each part.
    """

    sizes: Sizes
    set_sizes: tuple[int, int]
    curve_steps: int
    modes: list[Compile]
    deadline: float
    folder: Path
    results: Results
    png: Path | None
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def tiny(self) -> bool:
        """Whether this is only a try."""
        return self.sizes.channels == TINY_SIZES.channels

    def left_s(self) -> float:
        """Seconds that are left."""
        return self.deadline - time.monotonic() - MARGIN_S

    def has_time(self, part: str, needed_s: float) -> bool:
        """Whether there is time for a part; if not, it is reported."""
        if self.left_s() >= (0 if self.tiny else needed_s):
            return True
        self.results.note(
            f"Left out: {part}; {max(0.0, self.left_s()):.0f} s were left, it needs about {needed_s:.0f}."
        )
        return False

    def part(self, name: str, function: str, needed_s: float, **arguments: Any) -> Watched | None:
        """Run a part in a fresh process, if there is time, and keep what it found."""
        if not self.has_time(name, needed_s):
            return None
        print(f"-- {name} ({self.left_s():.0f} s left)", flush=True)
        try:
            watched = in_fresh_process(function, arguments, timeout_s=max(1.0, self.left_s()))
        except FreshProcessError as error:
            self.results.add(name, {"error": str(error)})
            self.results.note(f"Failed: {name}: {error}")
            return None
        if watched.trouble:
            self.results.note(f"Not complete: {name}: {watched.trouble}")
        self.found[name] = watched.result
        self.results.add(name, watched.as_json())
        return watched

    def measured(self, name: str, function: str, needed_s: float, **arguments: Any) -> Any:
        """As `part`, of a function of `benchmarks.gpu_parts` that takes the sizes; its result."""
        reported = {"sizes": self.sizes.as_json()} | arguments
        watched = self.part(name, f"benchmarks.gpu_parts:{function}", needed_s, **reported)
        return watched.result if watched else None


def corruption(session: Session) -> None:
    """(a) How fast cubes are corrupted."""
    if found := session.measured("corruption", "corruption", 20):
        session.results.table(*tables.corruption(found, session.sizes))


def waits(session: Session) -> None:
    """(b) Whether a step ever waits for the GPU."""
    cubes = session.folder / "few"
    write_set(cubes, 10 * session.sizes.batch, session.sizes.batch, session.sizes.size)
    if found := session.measured("waits", "waits", 25, cubes=str(cubes)):
        session.results.table(*tables.waits(found))


def steps(session: Session) -> None:
    """(c) The step, plainly and accelerated, without compilation."""
    if found := session.measured("steps", "steps", 60):
        session.results.table(*tables.steps(found, session.sizes, _card()))


def profile(session: Session) -> None:
    """(c) Where the step's time goes."""
    if found := session.measured("profile", "profile", 25):
        session.results.table(*tables.profile(found))
        session.results.note(tables.bandwidth(found))


def largest(session: Session) -> None:
    """(f) The largest batch."""
    limit = {"tried_at_most": 4} if session.sizes.device == "cpu" else {}
    if found := session.measured("largest_batch", "largest", 25, **limit):
        session.results.table(*tables.largest(found))


def epochs(session: Session) -> None:
    """(e) An epoch as large as PI-CAI's: cubes on the device, streamed from disk, and compiled."""
    if not session.has_time("epochs", 120):
        return
    cubes = session.folder / "cubes"
    needed = sum(session.set_sizes) * 8 * session.sizes.size[0] * session.sizes.size[1] * session.sizes.size[2]
    if disk_usage(session.folder).free < needed + GIB:
        session.results.note(f"Left out: epochs; {session.folder} has no room for {needed / GIB:.1f} GiB of cubes.")
        return
    start = time.perf_counter()
    write_set(cubes, *session.set_sizes, session.sizes.size)
    session.results.add("set", {"bytes": needed, "written_in_s": time.perf_counter() - start})
    watched = {}
    ways: dict[str, tuple[float, dict[str, Any]]] = {
        "device": (60, {"cubes_in": "device"}),
        "host": (60, {"cubes_in": "host"}),
    }
    if session.modes:
        mode = "reduce-overhead" if "reduce-overhead" in session.modes else session.modes[0]
        ways["compiled"] = (180, {"cubes_in": "device", "compile": mode, "epochs": 2})
    for way, (needed_s, choices) in ways.items():
        reported = {"cubes": str(cubes)} | choices | _recipe(session)
        if found := session.part(f"epoch_{way}", "benchmarks.epochs:one_epoch", needed_s, **reported):
            watched[way] = found
    if watched:
        session.results.table(*tables.epochs(watched, needed))


def curves(session: Session) -> None:
    """(d) Loss curves in float32 and bfloat16."""
    if session.measured("curves", "curves", 90, curve_steps=session.curve_steps):
        _show_curves(session)


def processes(session: Session) -> None:
    """(g) Two processes, if there are two GPUs; a CPU is shared by two, for a try."""
    gpus = torch.cuda.device_count() if session.sizes.device == "cuda" else 2
    if gpus < 2:
        session.results.note("Left out: two processes; there is one GPU.")
        return
    cubes = session.folder / "for_two"
    share = 10 if session.tiny else 60
    write_set(cubes, share * session.sizes.batch, session.sizes.batch, session.sizes.size)
    found = {}
    for number in (1, 2):
        reported = {"cubes": str(cubes), "processes": number, "epochs": 2} | _recipe(session)
        if watched := session.part(f"processes_{number}", "benchmarks.epochs:together", 40, **reported):
            found[number] = watched.result
    if len(found) == 2:
        session.results.table(*tables.processes(found, share))


def compiled(session: Session) -> None:
    """(c) The step, compiled."""
    found = {}
    for mode in session.modes:
        needed_s = 40 if mode == "cudagraphs" else 60
        if one := session.measured(f"compiled_{mode}", "compiled", needed_s, mode=mode):
            found[mode] = one
    if found:
        eager = session.found.get("steps", {})
        session.results.table(*tables.compiled(found, eager, session.sizes, _card()))


def compiled_curve(session: Session) -> None:
    """(d) A loss curve of a compiled network."""
    if not session.modes or "curves" not in session.found:
        return
    mode = "reduce-overhead" if "reduce-overhead" in session.modes else session.modes[0]
    reported = {"mode": mode, "curve_steps": session.curve_steps}
    if curve := session.measured("compiled_curve", "compiled_curve", 50, **reported):
        _show_curves(session, {f"bfloat16, {mode}": curve})


PARTS: tuple[Callable[[Session], None], ...] = (
    corruption,
    waits,
    steps,
    profile,
    largest,
    epochs,
    curves,
    processes,
    compiled,
    compiled_curve,
)
"""In this order: what is left out for lack of time is what is least needed."""


def _show_curves(session: Session, more: dict[str, list[float]] | None = None) -> None:
    found: dict[str, list[float]] = session.found["curves"] | (more or {})
    if len(found) < 2:
        return
    compared = compare(found, window=max(1, session.curve_steps // 10))
    session.results.add("curves_compared", compared | {"curves": found})
    title = f"Loss over {session.curve_steps} steps" + (", compiled ones too" if more else "")
    session.results.table(title, HEAD, rows(found, compared))
    if session.png:
        draw(found, compared["window"], f"Loss on {_card() or 'the CPU'}", session.png)


def _recipe(session: Session) -> dict[str, Any]:
    device = "cuda" if session.sizes.device == "cuda" else "cpu"
    return {"batch": session.sizes.batch, "channels": list(session.sizes.channels), "device": device}


def _card() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=570, metavar="S", help="seconds for all of it (default: 570)")
    parser.add_argument("--tiny", action="store_true", help="a small network and few cubes, for a quick try")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")
    parser.add_argument("--curve-steps", type=int, help="steps of a loss curve (default: 200; 4 with --tiny)")
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES, help="of torch.compile (default: all)")
    parser.add_argument("--parts", nargs="*", choices=[part.__name__ for part in PARTS], help="default: all")
    parser.add_argument("--folder", type=Path, help="for up to 10 GB of cubes, which are removed (default: temporary)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, after each part")
    parser.add_argument("--png", type=Path, help="draw the loss curves into this file")
    return parser


def _sizes(options: argparse.Namespace) -> Sizes:
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here that PyTorch can use.")
    if device == "cuda" and is_slow_cudnn(version := torch.backends.cudnn.version()):  # type: ignore[no-untyped-call]
        sys.exit(
            f"cuDNN {version} computes 3-D convolutions in bfloat16 slowly, as all of 9.10 to 9.14: its figures would "
            "say nothing; install a PyTorch with another one."
        )
    if device == "cpu" and not options.tiny:
        sys.exit(
            "There is no GPU here that PyTorch can use; 'python -m benchmarks.gpu --tiny' tries all of it on the CPU."
        )
    return replace(TINY_SIZES if options.tiny else REAL_SIZES, device=device)


def is_slow_cudnn(version: int | None) -> bool:
    """Whether this is one of the versions 9.10 to 9.14, whose 3-D convolutions in bfloat16 are known to be slow.

    Args:
        version: as PyTorch gives it, 91002 for 9.10.2.
    """
    return version is not None and 91_000 <= version < 91_500


def main() -> None:
    """Run from the command line."""
    deadline = time.monotonic()
    options = _parser().parse_args()
    sizes = _sizes(options)
    deadline += options.budget
    peak = {"forward_gflop_a_cube": forward_gflop(sizes), "peak_bfloat16_tflops": peak_tflops(_card())}
    results = Results("gpu", sizes.as_json() | {"budget_s": options.budget, "tiny": options.tiny} | peak, options.json)
    print(in_words(results.circumstances), flush=True)
    curve_steps = options.curve_steps or (4 if options.tiny else 200)
    set_sizes = (10 * sizes.batch, 2 * sizes.batch) if options.tiny else PICAI
    with tempfile.TemporaryDirectory(prefix="zssmnet-bench-", dir=options.folder) as name:
        session = Session(
            sizes, set_sizes, curve_steps, list(options.modes), deadline, Path(name), results, options.png
        )
        for part in PARTS:
            if options.parts and part.__name__ not in options.parts:
                continue
            try:
                part(session)
            except Exception as error:  # a part's own mistake must not cost the parts after it
                results.note(f"Failed: {part.__name__}: {type(error).__name__}: {error}")
    results.add("seconds", time.monotonic() - deadline + options.budget)


if __name__ == "__main__":
    main()
