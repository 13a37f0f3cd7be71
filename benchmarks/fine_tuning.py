"""Fine-tuning in nnU-Net v2 from pre-trained weights and from scratch: twins of several seeds on synthetic cases.

    python -m benchmarks.fine_tuning --json fine_tuning.json --png fine_tuning.png

Both twins of a seed see the same batches in the same order. Small and short, for a CPU: it shows that the ways from our
weights and from scratch can be compared, not what the weights are worth (docs/fine-tuning.md).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

import zssmnet
from benchmarks.nnunet_chain import Chain, losses, write_lesion_phantoms
from benchmarks.results import Results
from zssmnet.config import NetworkConfig, TrainingConfig
from zssmnet.handoff.export import export_nnunet_v2
from zssmnet.report.palette import FAINT, INK
from zssmnet.report.style import heading, legend, new_figure, png_of, without_frame

CHANNELS = (4, 6, 8, 10, 12)
PATCH_ZYX = (8, 32, 32)
TWINS = {"pre-trained": ("Zssmnet", "#2f78a8"), "from scratch": ("ZssmnetScratch", "#d1495b")}
Curves = dict[str, dict[str, list[list[float]]]]
"""By twin and by `train` or `val`: the loss of each epoch, for each seed."""


def pretrained(folder: Path, epochs: int) -> Path:
    """Weights pre-trained on the archive in `folder`."""
    archive, ssl = folder / "archive", folder / "SSL"
    zssmnet.prepare_archive(archive / "nnunet_raw", archive / "zonal_masks", ssl / "data")
    zssmnet.generate_cubes(ssl / "data", ssl / "generated_cubes")
    training = TrainingConfig(epochs=epochs, batch_size=8, device="cpu")
    config = zssmnet.PretrainConfig(network=NetworkConfig(channels=CHANNELS), training=training)
    record = zssmnet.pretrain(ssl / "generated_cubes", ssl / "pretrained_weights", config)
    print(f"pre-trained for {epochs} epochs: validation loss {record.best_validation_loss:.4f}", flush=True)
    return ssl / "pretrained_weights" / "ssl_mnet_zonal.model"


def train_twins(chain: Chain, weights: Path, seeds: int) -> Curves:
    """Train each twin with each seed."""
    curves: Curves = {twin: {"train": [], "val": []} for twin in TWINS}
    for seed in range(seeds):
        for twin, (trainer, _) in TWINS.items():
            given = weights if twin == "pre-trained" else None
            output = chain.train(f"Short{seed}{trainer}", given, weights, validate=False)
            for kind, found in curves[twin].items():
                found.append(losses(output, kind))
            print(f"seed {seed}, {twin}: validation loss {curves[twin]['val'][-1]}", flush=True)
    return curves


def rows(curves: Curves) -> list[tuple[str, ...]]:
    """A row a seed, and one for the mean difference: the loss of the last epoch."""
    found = []
    for kind, name in (("train", "training loss"), ("val", "validation loss")):
        last = {twin: np.array([curve[-1] for curve in of[kind]]) for twin, of in curves.items()}
        difference = last["pre-trained"] - last["from scratch"]
        for seed, values in enumerate(zip(*last.values(), difference, strict=True)):
            found.append((f"{name}, seed {seed}", *(f"{value:.3f}" for value in values)))
        means = (*(values.mean() for values in last.values()), difference.mean())
        found.append((f"{name}, mean", *(f"{value:.3f}" for value in means)))
    return found


def draw(curves: Curves, file: Path) -> None:
    """Draw training and validation losses side by side; thin: each seed, thick: their mean."""
    figure = new_figure(8.0, 3.6)
    axes: list[Axes] = list(figure.subplots(1, 2))
    for ax, (kind, name) in zip(axes, (("train", "training loss"), ("val", "validation loss")), strict=True):
        for twin, (_, colour) in TWINS.items():
            by_seed = np.array(curves[twin][kind])
            epochs = np.arange(1, by_seed.shape[1] + 1)
            ax.plot(epochs, by_seed.T, color=colour, linewidth=0.6, alpha=0.5)
            ax.plot(epochs, by_seed.mean(0), color=colour, linewidth=1.8)
        ax.set_title(name, fontsize=9, color=INK, loc="left")
        ax.set_xlabel("epoch", fontsize=9, color=FAINT)
        without_frame(ax)
    heading(figure, "Fine-tuning in nnU-Net v2 on synthetic cases (CPU, small network)")
    legend(figure, [(colour, twin) for twin, (_, colour) in TWINS.items()])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(png_of(figure))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12, help="synthetic cases (default: 12)")
    parser.add_argument("--pretraining-epochs", type=int, default=10, help="epochs of pre-training (default: 10)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, at most 10 (default: 3)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each fine-tuning (default: 8)")
    parser.add_argument("--iterations", type=int, default=15, help="iterations of each epoch (default: 15)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--png", type=Path, help="draw the curves into this file")
    options = parser.parse_args()

    configuration = {name: value for name, value in vars(options).items() if name not in ("json", "png")}
    configuration |= {"channels": CHANNELS, "patch_zyx": PATCH_ZYX}
    results = Results("fine_tuning", configuration, options.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lesion_phantoms(folder / "archive", options.cases)
        weights = folder / "mnet.pth"
        export_nnunet_v2(pretrained(folder, options.pretraining_epochs), weights)
        chain = Chain(folder, options.epochs, options.iterations)
        chain.write_data_set(PATCH_ZYX)
        curves = train_twins(chain, weights, options.seeds)
    results.add("curves", curves)
    title = f"Loss in the last of {options.epochs} epochs, fine-tuned in nnU-Net v2 on {options.cases} synthetic cases"
    results.table(title, ("", *TWINS, "difference"), rows(curves))
    if options.png:
        draw(curves, options.png)


if __name__ == "__main__":
    main()
