"""Zonal masks by trained networks: figures on held-out phantoms, and which odd images and networks make masks doubtful.

    python -m benchmarks.zones --masks ../shared/data/more_zonal_masks --json zones.json

T2W alone, on this machine's CPU; phantoms are drawn around real masks where a folder of some is given.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.results import Results
from zssmnet.config import SegmentConfig, ZonesConfig
from zssmnet.data.image_io import array_of, image_like, read_image, write_image
from zssmnet.phantom import case_ids, phantom_around, phantom_case
from zssmnet.stages.segment_zones import MadeMask, segment_zones
from zssmnet.stages.train_zones import train_zones
from zssmnet.storage import open_storage
from zssmnet.storage.records import read_record
from zssmnet.zones.masks import PARTS, figures_against

CPU = SegmentConfig(device="cpu")
Array = npt.NDArray[Any]


def inverted(values_ZYX: Array) -> Array:
    """An image with its contrast inverted."""
    turned: Array = values_ZYX.max() - values_ZYX
    return turned


def thigh(values_ZYX: Array) -> Array:
    """Two thighs on the same grid: skin and fat, muscle, bone with marrow."""
    rng = np.random.default_rng(values_ZYX.size)
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in values_ZYX.shape), indexing="ij")
    image = np.zeros(values_ZYX.shape)
    for middle in (-0.45, 0.45):
        radius = np.hypot((x - middle - rng.normal(0, 0.02)) / 0.42, (y - rng.normal(0, 0.03)) / 0.6)
        for reach, level in ((1.0, 900.0), (0.82, 350.0), (0.2, 150.0), (0.14, 800.0)):
            image[radius < reach] = level
        image[(radius > 0.2) & (radius < 0.82)] += 60 * np.sin(20 * x + 9 * y)[(radius > 0.2) & (radius < 0.82)]
    return np.clip(image + rng.normal(0, 25, image.shape), 0, None)


def write_phantoms(folder: Path, masks: list[Path], count: int) -> None:
    """T2W images and masks of phantoms."""
    if folder.exists():
        return
    for name in ("imagesTr", "masks"):
        (folder / name).mkdir(parents=True)
    for number, case_id in enumerate(case_ids(count) if not masks else [one.name[:-7] for one in masks[:count]]):
        case = phantom_around(case_id, read_image(masks[number])) if masks else phantom_case(case_id)
        write_image(case.t2w, folder / "imagesTr" / f"{case_id}_0000.nii.gz")
        write_image(case.mask, folder / "masks" / f"{case_id}.nii.gz")


def held_out(model: Path, archive: Path, output: Path) -> tuple[dict[str, float], int, int]:
    """Mean figures of the masks that a model makes of held-out cases, how many are doubtful, and how many cases."""
    segment_zones(model, archive, output, config=CPU)
    rows, doubtful, cases = [], 0, sorted((archive / "masks").glob("*.nii.gz"))
    for file in cases:
        record = read_record(open_storage(output), file.name[:-7], MadeMask)
        odd = ("left out",) if record is None else record.findings
        doubtful += bool(odd)
        if record and record.outputs:
            rows.append(figures_against(read_image(output / record.outputs[0].key), read_image(file)))
        if odd:
            print(
                f"{file.name}: Dice {rows[-1]['dice_gland'] if record and record.outputs else 0:.3f}: {'; '.join(odd)}"
            )
    names = [f"{figure}_{part}" for figure in ("dice", "surface_mm") for part in PARTS]
    known = {name: [value for row in rows if (value := row.get(name)) is not None] for name in names}
    return {name: float(np.mean(values)) for name, values in known.items() if values}, doubtful, len(cases)


def changed(archive: Path, to: Path, change: Callable[[Array], Array]) -> Path:
    """The archive with other values in its images."""
    if to.exists():
        return to
    (to / "imagesTr").mkdir(parents=True)
    (to / "masks").symlink_to(archive / "masks")
    for file in (archive / "imagesTr").iterdir():
        image = read_image(file)
        write_image(image_like(change(array_of(image)).astype(np.float32), image), to / "imagesTr" / file.name)
    return to


def spoiled(model: Path, to: Path) -> Path:
    """An ensemble of which one member's weights are permuted."""
    content, generator = torch.load(model, weights_only=True), torch.Generator().manual_seed(0)
    state = content["members"][1]["zones"]["state_dict"]
    for name, weight in state.items():
        if not name.startswith("outputs."):
            state[name] = weight.flatten()[torch.randperm(weight.numel(), generator=generator)].view_as(weight)
    to.mkdir(exist_ok=True)
    torch.save(content, to / "zones.model")
    return to


def main() -> None:
    """Train, make masks, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=Path, help="folder of real zonal masks (default: drawn ones)")
    parser.add_argument("--labelled", type=int, default=60)
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--few", type=int, default=8, help="labelled cases of the second training")
    parser.add_argument("--weights", help="pre-trained weights for a third one")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--folder", type=Path, help="working folder that is kept; what is there is not made again")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = Results("zones", vars(options), options.json)
    masks = sorted(options.masks.glob("*.nii.gz"))[::2] if options.masks else []
    config = ZonesConfig(preset="cpu", epochs=options.epochs, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        write_phantoms(folder / "held_out", masks, options.held_out)
        for part, count in (("labelled", options.labelled), ("few", options.few)):
            write_phantoms(folder / part, masks[options.held_out :], count)
        rows = []
        for part, count, weights in (
            ("labelled", options.labelled, None),
            ("few", options.few, None),
            *([("few", options.few, options.weights)] if options.weights else []),
        ):
            root = folder / f"root {part} {bool(weights)}"
            started, processor = time.monotonic(), time.process_time()
            train_zones(folder / part, folder / part / "masks", root, weights, config=config)
            minutes, processor_min = (time.monotonic() - started) / 60, (time.process_time() - processor) / 60
            figures, doubtful, cases = held_out(root, folder / "held_out", root / "masks")
            described = f"{count} labelled, from {'weights' if weights else 'scratch'}"
            results.add(described, figures | {"minutes": minutes, "processor_minutes": processor_min})
            rows.append([described, *(f"{figures.get(f'{kind}_{one}', float('nan')):.3f}" for kind in ("dice", "surface_mm") for one in PARTS), f"{doubtful}/{cases}", f"{minutes:.1f}", f"{processor_min:.1f}"])  # noqa: E501  # fmt: skip
        head = ["", *(f"{kind} {one}" for kind in ("Dice", "mm") for one in PARTS), "doubtful", "min", "CPU min"]
        results.table("Held-out phantoms, on T2W's grid", head, rows)
        root, rows = folder / "root labelled False", []
        for described, model, archive in (
            ("contrast inverted", root, changed(folder / "held_out", folder / "inverted", inverted)),
            ("thighs", root, changed(folder / "held_out", folder / "thigh", thigh)),
            ("a member's weights permuted", spoiled(root / "SSL/zones_model/zones.model", folder / "spoiled"), folder / "held_out"),  # noqa: E501
        ):  # fmt: skip
            _, doubtful, cases = held_out(model, archive, folder / f"masks {described}")
            results.add(described, {"doubtful": doubtful, "cases": cases})
            rows.append([described, f"{doubtful}/{cases}"])
        results.table("Doubtful masks", ["", "doubtful"], rows)


if __name__ == "__main__":
    main()
