"""The benchmarks run, with their smallest sizes; nothing is asked about times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.fresh import FreshProcessError, in_fresh_process
from benchmarks.gpu import is_slow_cudnn
from benchmarks.kernels import forward_gflop, peak_tflops
from benchmarks.page import put_into_page
from benchmarks.random_cubes import write_set
from benchmarks.results import Results
from benchmarks.steps import Sizes
from benchmarks.traffic import step_traffic
from zssmnet.storage import LocalStorage
from zssmnet.training.dataset import open_training_data

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """The JSON of a benchmark, run as `make` runs it."""
    file = folder / f"{name}.json"
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--json", str(file)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reported = json.loads(file.read_text())
    assert reported["benchmark"] == name
    assert {"date", "commit", "processor", "cores", "gpus", "versions"} <= reported["circumstances"].keys()
    for table in reported["tables"]:
        assert table["title"] in done.stdout
        assert {len(row) for row in table["rows"]} == {len(table["head"])}
    return reported


@pytest.mark.long
def test_preparation_and_corruption(tmp_path: Path) -> None:
    prepared = run(tmp_path, "preparation", "--tiny", "--repeat", "1")
    assert all(found["difference"] < 1e-6 for found in prepared["figures"].values())
    corrupted = run(tmp_path, "corruption", "--batch", "1", "--repeat", "1")
    assert {"shuffling_one_core", "cpu"} <= corrupted["figures"].keys()


@pytest.mark.long
def test_zones(tmp_path: Path) -> None:
    reported = run(tmp_path, "zones", *("--labelled", "4", "--few", "2", "--held-out", "2", "--epochs", "1"))
    assert {"4 labelled, from scratch", "2 labelled, from scratch", "thighs"} <= reported["figures"].keys()


@pytest.mark.long
def test_cubes(tmp_path: Path) -> None:
    reported = run(tmp_path, "cubes", "--tiny", "--cases", "1", "4")
    for found in reported["figures"]["by_cases"].values():
        for way in ("here", "plainly"):
            assert found[way]["result"].keys() == {"seconds", "reading_s", "bytes"}
        assert found["plainly"]["result"]["bytes"] > 3 * found["here"]["result"]["bytes"]


@pytest.mark.long
def test_training(tmp_path: Path) -> None:
    options = ("--set-gib", "0.01", "--limit-gib", "0.5", "--batch", "4", "--steps", "1")
    reported = run(tmp_path, "training", "--tiny", *options)
    assert reported["figures"]["under_limit"]["here"]["result"]["training_cubes"] > 0
    assert {"here", "plainly"} <= reported["figures"]["step_on_cpu"].keys()


@pytest.mark.long
def test_loss_curves(tmp_path: Path) -> None:
    picture = tmp_path / "curves.png"
    reported = run(tmp_path, "loss_curves", "--steps", "3", "--batch", "2", "--png", str(picture))
    assert [len(curve) for curve in reported["figures"]["curves"].values()] == [3, 3, 3]
    assert reported["figures"]["compared"]["largest_difference"].keys() == {"float32, another seed", "bfloat16"}
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_orchestration(tmp_path: Path) -> None:
    reported = run(tmp_path, "orchestration", "--tiny", "--cases", "1", "--pooled", "2", "--repeat", "1")
    figures = reported["figures"]
    assert figures["programs_1"]["zssmnet prepare"]["said"].startswith("1 cases prepared, 0 up to date")
    assert figures["programs_1"]["plain script"]["said"] == "1 cases"
    assert figures["pools_2"].keys() == {"threads", "processes, forked", "processes, spawned"}


@pytest.mark.long
def test_gpu_on_the_cpu(tmp_path: Path) -> None:
    """The parts of `make bench-gpu`, so that it works the first time where there is a GPU."""
    picture = tmp_path / "curves.png"
    tiny = ("--tiny", "--device", "cpu", "--curve-steps", "3", "--budget", "500")
    reported = run(tmp_path, "gpu", *tiny, "--modes", "--folder", str(tmp_path), "--png", str(picture))
    figures = reported["figures"]
    assert {"corruption", "waits", "steps", "profile", "largest_batch", "epoch_device", "epoch_host"} <= figures.keys()
    assert {"curves", "curves_compared", "processes_1", "processes_2"} <= figures.keys()
    assert not [note for note in reported["notes"] if note.startswith(("Failed", "Not complete", "Left out"))]
    assert all("median_ms" in step for step in figures["steps"]["result"].values())
    assert figures["processes_2"]["result"]["processes"] == 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.long
def test_gpu_parts_that_compile_on_the_cpu(tmp_path: Path) -> None:
    options = ("--tiny", "--device", "cpu", "--curve-steps", "3", "--modes", "cudagraphs", "--budget", "500")
    reported = run(tmp_path, "gpu", *options, "--parts", "curves", "compiled", "compiled_curve")
    assert "median_ms" in reported["figures"]["compiled_cudagraphs"]["result"]
    curves = reported["figures"]["curves_compared"]["curves"]
    assert curves.keys() == {"float32", "float32, another seed", "bfloat16", "TF32", "float16", "bfloat16, cudagraphs"}


@pytest.mark.long
def test_gpu_leaves_out_what_the_time_does_not_allow(tmp_path: Path) -> None:
    reported = run(tmp_path, "gpu", "--tiny", "--device", "cpu", "--budget", "1")
    assert {note.partition(";")[0] for note in reported["notes"]} >= {"Left out: corruption", "Left out: epochs"}
    assert reported["figures"].keys() == {"seconds"}


def test_a_fresh_process_tells_what_it_had_when_it_ended_early() -> None:
    watched = in_fresh_process("tests.benchmarks.work:yields_then_fails", {"what": "something"})
    assert watched.result == {"what": "something"}
    assert "ValueError: no more" in watched.trouble
    with pytest.raises(FreshProcessError, match="ValueError: nothing"):
        in_fresh_process("tests.benchmarks.work:fails", {})
    with pytest.raises(FreshProcessError, match="was ended after 1 s"):
        in_fresh_process("tests.benchmarks.work:sleeps", {}, timeout_s=1)


def test_memory_of_a_fresh_process_is_watched_and_limited() -> None:
    taken = in_fresh_process("tests.benchmarks.work:takes", {"megabytes": 100})
    assert 100 <= taken.grown / 2**20 < 110
    with pytest.raises(FreshProcessError, match="MemoryError"):
        in_fresh_process("tests.benchmarks.work:takes", {"megabytes": 100}, limit_bytes=50 * 2**20)


def test_sets_of_cubes_are_as_training_takes_them(tmp_path: Path) -> None:
    write_set(tmp_path, 12, 3, (32, 32, 8), kind="smooth", dtype="float64")
    training, validation = open_training_data(LocalStorage(tmp_path), 4)
    assert (len(training), len(validation), training.size, training.dtype) == (12, 3, (32, 32, 8), "float64")
    assert training.first_not_finite() is None


def test_versions_of_cudnn_that_are_known_to_be_slow() -> None:
    assert [is_slow_cudnn(version) for version in (None, 90_900, 91_002, 91_400, 91_500)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_figures_of_the_network_and_of_cards() -> None:
    real = Sizes(24, (32, 48, 64, 80, 96), (64, 64, 16), "cpu", 1)
    assert forward_gflop(real) == pytest.approx(46.4, abs=0.05)
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops("NVIDIA H100 PCIe") == 756
    assert peak_tflops("NVIDIA H100 NVL") is None
    assert peak_tflops("a card of tomorrow") is None


def test_traffic_is_counted_without_a_gpu() -> None:
    """Features move in proportion to the batch, the optimizer's tensors do not; kernels do not count cubes."""
    one, two = (step_traffic(Sizes(batch, (2, 3, 4, 5, 6), (32, 32, 8), "meta", 1)) for batch in (2, 4))
    for kind in ("norms and activations", "pooling", "up-sampling", "merging and concatenation"):
        assert two.bytes[kind] == pytest.approx(2 * one.bytes[kind], rel=0.02), kind
    assert two.bytes["optimizer"] == one.bytes["optimizer"] > 0
    assert two.kernels == one.kernels
    assert one.kernels["norms and activations"] == 84 * (2 + 2 + 1 + 1)


def test_a_step_as_a_cuda_graph_moves_little_more_than_half() -> None:
    """At full width, counted: nothing is copied between layouts, and norms are two kernels each way."""
    traffic = step_traffic(Sizes(24, (32, 48, 64, 80, 96), (64, 64, 16), "meta", 1), fused=True)
    assert sum(traffic.bytes.values()) < 33e9
    assert sum(traffic.kernels.values()) <= 1250
    assert traffic.bytes["copies: layouts, number types"] < 0.4e9
    assert traffic.kernels["norms and activations"] == 84 * (2 + 2)


@pytest.mark.long
def test_gpu_check_continues_with_what_is_missing(tmp_path: Path) -> None:
    options = ("--tiny", "--device", "cpu", "--parts", "bandwidth")
    assert run(tmp_path, "gpu_check", *options, "--budget", "1")["figures"] == {}
    measured = run(tmp_path, "gpu_check", *options)["figures"]
    assert measured["bandwidth"]["result"]["copy_gb_per_s"] > 0
    assert run(tmp_path, "gpu_check", *options)["figures"]["bandwidth"] == measured["bandwidth"]


@pytest.mark.long
def test_gpu_check_of_training(tmp_path: Path) -> None:
    parts = ("convolutions", "steps", "eighth", "trainer", "resumed", "refused")
    figures = run(tmp_path, "gpu_check", "--tiny", "--device", "cpu", "--budget", "900", "--parts", *parts)["figures"]
    assert not [one for one in figures.values() if "error" in one or one["trouble"]]
    assert all("median_ms" in one for one in figures["steps"]["result"].values())
    assert figures["resumed"]["result"]["off"]["equal"]
    assert figures["refused"]["result"]["a learning rate of 0 changes nothing"]
    assert "the loss is nan" in figures["refused"]["result"]["a NaN"]


def test_the_page_shows_tables_and_notes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n" + "\nold\n".join(report.MARKS) + "\nafter\n")
    results = Results("cubes", {"cases": [20, 80]}, tmp_path / "cubes.json")
    results.table("Cubes", ("what", "ratio"), [("a | b", "2 x")])
    results.note("Left out: nothing.")
    put_into_page(report.as_markdown([tmp_path / "cubes.json"]), page, report.MARKS)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    for shown in ("**Cubes**", "| a \\| b | 2 x |", "- Left out: nothing.", "cases 20 x 80"):
        assert shown in text
