"""Do the recipes' weights help? Synthetic examinations, a small network, the probe: docs/evidence.md from real runs.

``python -m benchmarks.evidence --root F --json F --page F`` runs what is not done yet, and writes the figures and the
page; without ``--root`` it only writes the page anew from the figures.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from flows.demo import demo_pretraining
from zssmnet import stages
from zssmnet.config import CubesConfig, PreparationConfig, ProbeConfig, Recipe
from zssmnet.phantom import evenly_split_cases, write_archive
from zssmnet.probe.floor import RULE
from zssmnet.probe.labels import read_labelled_cases
from zssmnet.probe.note import TASKS, Task
from zssmnet.probe.result import ProbeResult, judge
from zssmnet.probe.run import probe
from zssmnet.registry.versions import MODEL
from zssmnet.report.probe import probe_picture, probe_table
from zssmnet.storage import open_storage

RECIPES: tuple[Recipe, ...] = ("reference", "per-channel", "masked")
UNLABELLED, LABELLED, EPOCHS = 24, 28, 8
STEPS = (25, 50)
PROBES = {
    task: ProbeConfig(
        task=task, labelled=(4,), looks=STEPS, learning_rates=(0.003, 0.01), test_cases=16, tuning_cases=4, device="cpu"
    )
    for task in TASKS
}


def pretrained(root: Path, recipe: Recipe) -> Path:
    """Weights of a recipe: the demo's network and training, on unlabelled examinations with subtle lesions."""
    stages.pretrain(root / "cubes", root / recipe, demo_pretraining(EPOCHS, 0, recipe))
    return root / recipe / MODEL


def prepare_unlabelled(root: Path) -> None:
    """The examinations that the weights are trained with, as cubes."""
    if not (root / "cubes").exists():
        images, masks = write_archive(root / "unlabelled", evenly_split_cases(UNLABELLED), 0, subtle=True)
        stages.prepare_archive(images, masks, root / "data", PreparationConfig(spacing_mm=(1.0, 1.0, 3.0)))
        stages.generate_cubes(root / "data", root / "cubes", CubesConfig(cubes_per_case=3))


def run_probe(root: Path, task: Task, weights: list[Path]) -> ProbeResult:
    """Probe the weights on labelled examinations that none of them has seen."""
    archive = root / "labelled"
    if not archive.exists():
        write_archive(archive, [f"{95001 + i}_{9500001 + i}" for i in range(LABELLED)], 0, subtle=True)
    images, masks, lesions = (open_storage(archive / name) for name in ("nnunet_raw", "zonal_masks", "lesions"))
    config = PROBES[task]
    cases = read_labelled_cases(
        images, masks, lesions if task == "lesions" else None, config, r"^(?P<patient>\d+)_\d+$"
    )
    return probe(
        cases,
        [str(path) for path in weights],
        open_storage(root / f"probe-{task}"),
        config,
        on_plan=lambda trials, seconds: print(f"{task}: {trials} trials, about {seconds / 60:.0f} min", flush=True),
    )


def measure(root: Path, file: Path) -> None:
    """Write all figures to a file, with the CPU time of each part; what an earlier call has done is not done again."""
    root.mkdir(parents=True, exist_ok=True)
    times = json.loads((root / "times.json").read_text()) if (root / "times.json").exists() else {}

    def timed(name: str, work: Any) -> Any:
        started = time.process_time()
        done = work()
        times[name] = times.get(name, 0.0) + time.process_time() - started
        (root / "times.json").write_text(json.dumps(times))
        return done

    timed("unlabelled examinations, prepared and cut", lambda: prepare_unlabelled(root))
    weights = [timed(f"pre-training, {recipe}", lambda r=recipe: pretrained(root, r)) for recipe in RECIPES]
    results = {}
    for task in PROBES:
        result = timed(f"probe, {task}", lambda t=task: run_probe(root, t, weights))
        results[task] = result.model_dump(mode="json")
        file.write_text(json.dumps({"cpu_s": times, "results": results}) + "\n")


def page(figures: dict[str, Any], pictures: str) -> str:
    """The page in Markdown.

    Args:
        figures: see `measure`.
        pictures: where the pictures lie, relative to the page.
    """
    results = {task: _judged_anew(ProbeResult.model_validate(one)) for task, one in figures["results"].items()}
    minutes = sum(figures["cpu_s"].values()) / 60
    parts = [
        "# Evidence",
        "*Made by `make evidence` from the JSON of real runs; not written by hand.*",
        "Whether pre-trained weights help is a question of data, network and task: `zssmnet probe` asks it with yours. "
        "Below is what was found with synthetic examinations and a small network on a CPU.",
        "## How",
        f"{UNLABELLED} synthetic examinations without labels for pre-training, {LABELLED} others with labels for the "
        f"probe; 3 x 1 x 1 mm. Channels 4, 6, 8, 10, 12; every recipe has the same {EPOCHS} epochs of AdamW at 0.01 "
        "with a cosine and a calibrated head, from one seed. Lesions are subtle: their contrast is within normal "
        "tissue's, and nodules with a capsule, old blood and inflammation look alike.",
        f"All of it took {minutes:.0f} min of one CPU core.",
    ]
    for task, result in results.items():
        parts += [
            f"## {task.capitalize()}",
            probe_table(result),
            f"![Curves of {task}]({pictures}/evidence_{task}.png)",
        ]
    parts += ["## What it says", *_conclusions(results), "## What it does not show", _LIMITS]
    return "\n\n".join(parts) + "\n"


_LIMITS = """\
- Nothing about real examinations: synthetic ones have the structure that was put into them.
- Nothing about the full network and hundreds of epochs on a GPU, for which the recipes were made.
- One pre-training seed stands for each recipe: the probe's seeds vary labelled cases, order and heads, not weights.
- Only the tasks above were probed: each task takes ten minutes of a quiet core, and the machine was not quiet.
- Fine-tuning took few steps, as CPU time was short; with more, differences between arms shrink."""


def _conclusions(results: dict[str, ProbeResult]) -> list[str]:
    lines = []
    for task, result in results.items():
        help_ = ", ".join(one.weights for one in result.verdicts if one.verdict == "helps")
        found = f"these weights help: {help_}" if help_ else "no weights were shown to help"
        control = result.control.difference
        fails = f"scratch differs from scratch by {control.mean:+.3f} ({control.low:+.3f} to {control.high:+.3f}), "
        reported = f"{fails}so this run proves nothing either way" if control.excludes_zero else "the control holds"
        lines.append(f"- {task.capitalize()}: {found}; {reported}.")
    if "lesions" in results:
        rule = np.mean([one.mean("lesions") for one in results["lesions"].trials_of(RULE)])
        lines.append(f"- Lesions: the rule DWI - ADC within the gland has an average precision of {rule:.3f}.")
    verdicts = [one for result in results.values() for one in result.verdicts]
    always = {one.weights for one in verdicts} - {one.weights for one in verdicts if one.verdict != "helps"}
    recommended = ", ".join(sorted(always))
    lines.append(f"- Recommended by this: {recommended or 'no recipe over another'}. `reference` stays the default.")
    return ["\n".join(lines)]


def _judged_anew(result: ProbeResult) -> ProbeResult:
    """The same trials by the present rules."""
    return judge(result.trials, result.learning_rates, result.weights, result.test_cases, result.network, result.config)


def main() -> None:
    """Run, and write figures and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="working folder; an interrupted run continues there")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args()
    if options.root:
        measure(options.root, options.json)
    figures = json.loads(options.json.read_text())
    images = options.page.parent / "images"
    for task, one in figures["results"].items():
        (images / f"evidence_{task}.png").write_bytes(probe_picture(_judged_anew(ProbeResult.model_validate(one))))
    options.page.write_text(page(figures, "images"))


if __name__ == "__main__":
    main()
