"""Do the recipes' weights help? Synthetic examinations, a small network, the probe: docs/evidence.md from real runs.

``python -m benchmarks.evidence --root F --json F --page F`` runs what is not done yet, and writes the figures and the
page; without ``--root`` it only writes the page anew from the figures.
"""

import argparse
import itertools
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import zssmnet
from zssmnet.config import (
    PICAI_PATIENT,
    PROBE_SCALES,
    CubesConfig,
    MaskingConfig,
    PreparationConfig,
    ProbeConfig,
    Recipe,
)
from zssmnet.data.archive import MASK_SUFFIX
from zssmnet.data.image_io import read_image
from zssmnet.phantom import GridSpec, evenly_split_cases, phantom_around, write_archive, write_case
from zssmnet.preparation.resampling import grid_of, resample_mask, target_grid
from zssmnet.probe.arms import AGAIN, SCRATCH, read_arm
from zssmnet.probe.floor import RIDGE, RULE
from zssmnet.probe.labels import read_labelled_cases
from zssmnet.probe.note import Task
from zssmnet.probe.result import Comparison, ProbeResult, endpoint_SC, judge
from zssmnet.probe.run import compare_arms
from zssmnet.probe.statistics import paired_difference
from zssmnet.registry.versions import MODEL
from zssmnet.report.probe import probe_picture, probe_table
from zssmnet.stages.demo import demo_pretraining
from zssmnet.storage import open_storage

RECIPES: tuple[Recipe, ...] = ("reference", "per-channel", "masked")
TRAININGS = 5
"""Of each recipe, from other seeds; one for each seed of the probe."""
UNLABELLED, LABELLED, EPOCHS = 24, 52, 5
MASKS = Path(__file__).resolve().parents[2] / "shared/data/zonal_masks"
"""Real zonal masks, where they are: no part of the project."""
LOOKS: dict[Task, tuple[int, ...]] = {"lesions": (15, 30), "zones": (40, 80)}
"""Steps with which scratch is above what needs no network."""
PROBES = {
    task: ProbeConfig(
        task=task,
        preset="coarse",
        labelled=(16,),
        seeds=TRAININGS,
        looks=looks,
        learning_rates=(0.01, 0.02),
        test_cases=20,
        tuning_cases=6,
        device="cpu",
    )
    for task, looks in LOOKS.items()
}
SPACING_MM = PROBE_SCALES["coarse"].spacing_mm
GRID = GridSpec.centred((128, 128, 21), (1.0, 1.0, 3.0), (0.0, 0.0, 0.0))


def pretrained(root: Path, recipe: Recipe, seed: int) -> Path:
    """Weights of a recipe: the demo's network and training, on unlabelled examinations with subtle lesions."""
    config = demo_pretraining(EPOCHS, seed, recipe)
    masking = MaskingConfig(block=(4, 4, 2))  # as many mm as the demo's blocks
    config = config.model_copy(update={"corruption": config.corruption.model_copy(update={"masking": masking})})
    zssmnet.pretrain(root / "cubes", root / f"{recipe}-{seed}", config)
    return root / f"{recipe}-{seed}" / MODEL


def prepare_unlabelled(root: Path) -> None:
    """The examinations that the weights are trained with, as cubes."""
    if not (root / "cubes").exists():
        ids = evenly_split_cases(UNLABELLED)
        images, masks = write_archive(root / "unlabelled", ids, 0, grids=[GRID], subtle=True)
        zssmnet.prepare_archive(images, masks, root / "data", PreparationConfig(spacing_mm=SPACING_MM))
        zssmnet.generate_cubes(root / "data", root / "cubes", CubesConfig(cubes_per_case=3, size=(32, 32, 16)))


def prepare_labelled(root: Path, masks: Path) -> int:
    """The examinations of the probe, around real zonal masks as far as there are any, the rest around drawn ones.

    Returns:
        The number of real masks.
    """
    files, archive = sorted(masks.glob("*.nii.gz")), root / "labelled"
    if not archive.exists():
        unfinished = root / "labelled.unfinished"
        for file in files:
            mask = read_image(file)
            mask = resample_mask(mask, target_grid(grid_of(mask), GRID.spacing_mm))
            write_case(unfinished, phantom_around(file.name.removesuffix(MASK_SUFFIX), mask, subtle=True))
        drawn = [f"{95001 + i}_{9500001 + i}" for i in range(LABELLED - len(files))]
        write_archive(unfinished, drawn, 0, grids=[GRID], subtle=True)
        unfinished.rename(archive)
    return len(files)


def run_probe(root: Path, task: Task, weights: list[str]) -> ProbeResult:
    """Probe the weights on labelled examinations that none of them has seen."""
    archive = root / "labelled"
    images, masks, lesions = (open_storage(archive / name) for name in ("nnunet_raw", "zonal_masks", "lesions"))
    config = PROBES[task]
    cases = read_labelled_cases(images, masks, lesions if task == "lesions" else None, config, PICAI_PATIENT)
    return compare_arms(
        cases,
        [read_arm(one, force=True) for one in weights],
        open_storage(root / f"probe-{task}"),
        config,
        on_plan=lambda trials, seconds: print(f"{task}: {trials} trials, about {seconds / 60:.0f} min", flush=True),
        on_trial=lambda one: print(f"{task}: {one.arm}, seed {one.seed}: {one.mean(task):.3f}", flush=True),
    )


def measure(root: Path, file: Path, masks: Path) -> None:
    """Write all figures to a file, with the CPU time of each part; what an earlier call has done is not done again."""
    root.mkdir(parents=True, exist_ok=True)
    times = json.loads((root / "times.json").read_text()) if (root / "times.json").exists() else {}

    def timed(name: str, work: Any) -> Any:
        started = time.process_time()
        done = work()
        times[name] = times.get(name, 0.0) + time.process_time() - started
        (root / "times.json").write_text(json.dumps(times))
        return done

    timed("unlabelled examinations, prepared and cut", partial(prepare_unlabelled, root))
    real = timed("labelled examinations", partial(prepare_labelled, root, masks))
    arms = []
    for recipe in RECIPES:
        work = (partial(pretrained, root, recipe, seed) for seed in range(TRAININGS))
        arms.append(",".join(str(timed(f"pre-training, {recipe}", one)) for one in work))
    results = {}
    for task in PROBES:
        result = timed(f"probe, {task}", partial(run_probe, root, task, arms))
        results[task] = result.model_dump(mode="json")
        file.write_text(json.dumps({"cpu_s": times, "real_masks": real, "results": results}) + "\n")


def page(figures: dict[str, Any], pictures: str) -> str:
    """The page in Markdown.

    Args:
        figures: see `measure`.
        pictures: where the pictures lie, relative to the page.
    """
    results = {task: _judged_anew(ProbeResult.model_validate(one)) for task, one in figures["results"].items()}
    real, spent = figures["real_masks"], figures["cpu_s"]
    trained = sum(seconds for name, seconds in spent.items() if name.startswith("pre-training"))
    first = next(iter(results.values()))
    parts = [
        "# Evidence",
        "*Made by `make evidence` from the JSON of real runs; not written by hand.*",
        "Whether pre-trained weights help is a question of data, network and task: `zssmnet probe` asks it with yours. "
        "Below: results with synthetic examinations and a small network on a CPU.",
        "## How",
        f"{UNLABELLED} synthetic examinations without labels for pre-training, around drawn zonal masks; {LABELLED} "
        f"others with labels for the probe, {real} of them around real zonal masks, each of another patient, the rest "
        "around drawn ones; all in the probe's preset `coarse`, 3 x 2 x 2 mm. Lesions are subtle: their contrast is "
        "within normal tissue's, nodules with a capsule, old blood and inflammation look alike, and one case in three "
        "has none.",
        f"Channels {', '.join(map(str, first.network.channels))}. Every recipe has {TRAININGS} trainings from as many "
        f"seeds, each of the same {EPOCHS} epochs of AdamW at 0.01 with a cosine and a calibrated head, and "
        "`masked` blocks of 8 x 8 x 6 mm; seed i of the probe takes training i, so that intervals "
        "include the variance between trainings.",
        f"All of it took {sum(spent.values()) / 60:.0f} min of one CPU core, of which pre-training {trained / 60:.0f}.",
    ]
    for task, result in results.items():
        parts += [
            f"## {task.capitalize()}",
            probe_table(result),
            f"![Curves of {task}]({pictures}/evidence_{task}.png)",
        ]
    parts += ["## Findings", *_conclusions(results), "## Limits", _limits(results)]
    return "\n\n".join(parts) + "\n"


def _limits(results: dict[str, ProbeResult]) -> str:
    lines = [
        "Nothing about real examinations: synthetic ones have the structure that was put into them.",
        "Nothing about the full network and hundreds of epochs on a GPU, for which the recipes were made.",
        "Nothing about fewer or more labelled cases, or more steps, than were tried.",
        "Steps and learning rates to choose from were chosen after trials on examinations of the same kind, test "
        "cases among them; no recipe was preferred by that, but scratch may be better here than on new cases.",
    ]
    if missing := [task for task in PROBES if task not in results]:
        lines.append(f"Nothing about {', '.join(missing)}: that part was not run to its end.")
    return "\n".join(f"- {line}" for line in lines)


def _conclusions(results: dict[str, ProbeResult]) -> list[str]:
    lines = []
    for task, result in results.items():
        words = {word: [one.weights for one in result.verdicts if one.verdict == word] for word in ("helps", "harms")}
        said = [f"{word}: {', '.join(names)}" for word, names in words.items() if names]
        control, floor = result.control.difference, _against_floor(result)
        name = task.capitalize()
        lines.append(f"{name}: {'; '.join(said) or 'no weights were shown to help or to harm'}.")
        lines.append(
            f"{name}: the control {'fails' if control.excludes_zero else 'holds'}: scratch differs from scratch by "
            f"{control.mean:+.3f} ({control.low:+.3f} to {control.high:+.3f}). Over all "
            f"exchanges of the two arms, seed by seed, it fails in {_false_alarms(result):.0%}; 5 % are nominal."
        )
        lines.append(
            f"{name}: scratch minus {floor.second}, which needs no network: {floor.difference.mean:+.3f} "
            f"({floor.difference.low:+.3f} to {floor.difference.high:+.3f})"
            + ("." if floor.difference.low > 0 else ": so few steps reach no more than that, from any start.")
        )
    helped = [{one.weights for one in result.verdicts if one.verdict == "helps"} for result in results.values()]
    always = sorted(set.intersection(*helped)) if helped else []
    which = ", ".join(always) if len(results) == len(PROBES) else ""
    lines.append(f"Recommended: {which or 'no recipe over another'}. `reference` stays the default.")
    return ["\n".join(f"- {line}" for line in lines)]


def _against_floor(result: ProbeResult) -> Comparison:
    return next(one for one in result.comparisons if one.first == SCRATCH and one.second in (RIDGE, RULE))


def _false_alarms(result: ProbeResult) -> float:
    """How often the control fails if the names of the two scratch arms are exchanged, seed by seed, in all ways."""
    both = np.stack([endpoint_SC(result.trials, arm, result.config) for arm in (SCRATCH, AGAIN)])
    difference_SC = both[1] - both[0]
    ways = itertools.product((-1.0, 1.0), repeat=len(difference_SC))
    none = np.zeros_like(difference_SC)
    return float(
        np.mean([paired_difference(difference_SC * np.array(way)[:, None], none).excludes_zero for way in ways])
    )


def _judged_anew(result: ProbeResult) -> ProbeResult:
    """The same trials by the present rules."""
    known = result.trials, result.learning_rates, result.weights, result.test_cases, result.network, result.config
    return judge(*known).model_copy(update={"truth": result.truth})


def main() -> None:
    """Run, and write figures and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="working folder; an interrupted run continues there")
    parser.add_argument("--masks", type=Path, default=MASKS, help="folder of real zonal masks (%(default)s)")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--page", type=Path, required=True)
    options = parser.parse_args()
    if options.root:
        measure(options.root, options.json, options.masks)
    figures = json.loads(options.json.read_text())
    images = options.page.parent / "images"
    for task, one in figures["results"].items():
        (images / f"evidence_{task}.png").write_bytes(probe_picture(_judged_anew(ProbeResult.model_validate(one))))
    options.page.write_text(page(figures, "images"))


if __name__ == "__main__":
    main()
