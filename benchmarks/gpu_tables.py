"""What is shown of the figures of `benchmarks.gpu`: each function gives a table's title, head and rows."""

from collections.abc import Mapping
from typing import Any

from benchmarks.fresh import Watched
from benchmarks.kernels import forward_gflop, peak_tflops
from benchmarks.results import GIB, MB
from benchmarks.steps import Sizes

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
Found = dict[str, Any]
_STEP_HEAD = ("variant", "step", "launching", "cubes/s", "to plain", "memory reserved", "of the bfloat16 peak")


def corruption(found: Found, sizes: Sizes) -> Table:
    """Milliseconds of a batch by step, and the plain loop on one core."""
    rows: list[tuple[str, ...]] = [(name, f"{value:.2f} ms") for name, value in found["ms"].items()]
    rows.append(("cubes a second", f"{found['cubes_per_second']:.0f}"))
    core = found["one_core"]
    rows.append(("shuffling a channel on one core, in a loop", f"{core['loop_ms']:.1f} ms"))
    rows.append(("... all windows together", f"{core['together_ms']:.1f} ms, {core['ratio']:.0f} x"))
    return f"Corruption of {sizes.batch} cubes of 64 x 64 x 16 on the device", ("what", "value"), rows


def waits(found: Found) -> Table:
    """Whether the host ever waited."""
    rows: list[tuple[str, ...]] = []
    for name, one in found.items():
        watched = "" if one.get("watched_by") != "nobody (CPU)" else ", but nobody watched: a CPU"
        outcome = f"waits: {one['error']}" if one["error"] else f"never waits{watched}"
        rows.append((name, str(one["steps"]), outcome))
    return "Steps of train_epoch with PyTorch's error where the host waits", ("cubes", "steps", "outcome"), rows


def steps(found: Found, sizes: Sizes, card: str) -> Table:
    """The step in its variants."""
    rows = [_step_row(name, one, found, sizes, card) for name, one in found.items()]
    return _step_title(sizes, card), _STEP_HEAD, rows


def compiled(found: Mapping[Any, Found], eager: Found, sizes: Sizes, card: str) -> Table:
    """The step, compiled; the time of the first step, which compiles, stands with the name."""
    rows: list[tuple[str, ...]] = []
    for mode, one in found.items():
        name = f"all together, {mode}"
        if "error" not in one:
            name += f" (first step {one['first_step_s']:.0f} s)"
        rows.append(_step_row(name, one, eager, sizes, card))
    return f"{_step_title(sizes, card)}, compiled", _STEP_HEAD, rows


def profile(found: Found) -> Table:
    """Shares by kind of operation."""
    whole = found["network_ms"] + found["corruption_ms"]
    rows: list[tuple[str, ...]] = [
        ("corruption", f"{found['corruption_ms']:.2f} ms", f"{found['corruption_ms'] / whole:.1%}")
    ]
    for kind, value in sorted(found["by_kind_ms"].items(), key=lambda item: -item[1]):
        rows.append((kind, f"{value:.2f} ms", f"{value / whole:.1%}"))
    return "Where a step with all together spends its time, by the profiler", ("what", "time", "share"), rows


def bandwidth(found: Found) -> str:
    """What norms and activations achieve of the memory's bandwidth."""
    if not found["norms_gb_per_s"]:
        return "Norms and activations: no time of theirs was seen."
    share = found["norms_gb_per_s"] / found["copy_gb_per_s"]
    return (
        f"Norms and activations: {found['normed_bytes'] / MB:.0f} MB of features, moved 13 times at least, at "
        f"{found['norms_gb_per_s']:.0f} GB/s; a plain copy achieves {found['copy_gb_per_s']:.0f} GB/s, "
        f"of which that is {share:.0%}."
    )


def largest(found: Found) -> Table:
    """The largest batches."""
    rows: list[tuple[str, ...]] = []
    for name in ("float32", "bfloat16"):
        if name in found:
            least = found[name] * 2 > found["tried_at_most"]
            rows.append((name, f"{'at least ' if least else ''}{found[name]}"))
    return "The largest batch that fits", ("number type", "cubes"), rows


def epochs(watched: dict[str, Watched], set_bytes: int) -> Table:
    """Epochs end to end."""
    names = {
        "device": "cubes on the device",
        "host": "streamed from disk (files just written)",
        "compiled": "cubes on the device, compiled",
    }
    rows: list[tuple[str, ...]] = []
    for way, one in watched.items():
        result = one.result
        first = f", the first one {result['first_s']:.1f} s" if way == "compiled" else ""
        cubes = result["training_cubes"] + result["validation_cubes"]
        rows.append(
            (
                names[way],
                f"{result['loading_s']:.1f} s",
                f"{result['seconds']:.1f} s{first}",
                f"{cubes / result['seconds']:.0f}",
                f"{one.grown / MB:.0f} MB",
                _gib(result["peak_gpu_bytes"]),
            )
        )
    any_one = next(iter(watched.values())).result
    title = (
        f"An epoch: {any_one['training_cubes']} cubes trained, {any_one['validation_cubes']} validated, "
        f"{set_bytes / GIB:.1f} GiB"
    )
    return title, ("cubes", "loading", "epoch", "cubes/s", "host memory taken", "GPU memory"), rows


def processes(found: Mapping[int, Found], steps: int) -> Table:
    """One process and two."""
    alone, both = (min(found[number]["epochs_s"]) for number in (1, 2))
    row = (f"an epoch of {steps} steps and its validation", f"{alone:.1f} s", f"{both:.1f} s", f"{alone / both:.2f} x")
    return "Two processes that share each batch", ("what", "one process", "two", "ratio"), [row]


def _step_row(name: str, one: Found, found: Found, sizes: Sizes, card: str) -> tuple[str, ...]:
    if "error" in one:
        return name, one["error"], "", "", "", "", ""
    plain = found.get("plain", {}).get("median_ms")
    ratio = f"{plain / one['median_ms']:.2f} x" if plain else ""
    memory = _gib(one["peak_gpu_bytes"])
    times = f"{one['median_ms']:.1f} ms", f"{one['host_ms']:.1f} ms"
    return name, *times, f"{one['cubes_per_second']:.0f}", ratio, memory, _share(one, sizes, card)


def _share(one: Found, sizes: Sizes, card: str) -> str:
    """Of the card's peak: three times the forward pass, for it and the two of the gradients."""
    peak = peak_tflops(card)
    if peak is None:
        return "unknown card" if card else ""
    achieved = 3 * forward_gflop(sizes) * sizes.batch / one["median_ms"]  # GFLOP a millisecond are TFLOP a second
    return f"{achieved / peak:.1%}"


def _step_title(sizes: Sizes, card: str) -> str:
    channels = ", ".join(map(str, sizes.channels))
    return f"A step of {sizes.batch} cubes, channels {channels}, on {card or 'the CPU'}"


def _gib(amount: int | None) -> str:
    return "" if amount is None else f"{amount / GIB:.1f} GiB"
