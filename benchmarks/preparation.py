"""How fast a case is prepared, against resampling whole volumes and cropping them then.

    python -m benchmarks.preparation --json preparation.json

On synthetic examinations, one thread, seconds of the processor. The best of some repetitions counts; both ways give the
same, which is checked. A whole case goes from files to files; the plain way reads and writes with SimpleITK alone, and
neither looks for damage nor writes records.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.results import Results
from benchmarks.timing import best_seconds
from zssmnet.config import PreparationConfig
from zssmnet.data.archive import take_inventory
from zssmnet.data.examination import Examination, read_examination
from zssmnet.data.image_io import array_of, write_image
from zssmnet.phantom import GridSpec, write_archive
from zssmnet.preparation.cropping import bounding_box, margin_in_voxels
from zssmnet.preparation.prepare import prepare_volumes, prepared_keys, publish_prepared
from zssmnet.preparation.resampling import grid_of, target_grid
from zssmnet.report.archive_rows import draw_row
from zssmnet.storage import LocalStorage, sha256_of

CENTRE = (0.0, 0.0, 0.0)
GRIDS = {
    "grid unchanged (384 x 384 x 19 at 0.5 x 0.5 x 3.0 mm)": GridSpec.centred((384, 384, 19), (0.5, 0.5, 3.0), CENTRE),
    "grid changed (640 x 640 x 23 at 0.3 x 0.3 x 3.6 mm)": GridSpec.centred((640, 640, 23), (0.3, 0.3, 3.6), CENTRE),
}
SMALL_GRIDS = {
    "grid unchanged (96 x 96 x 16 at 0.5 x 0.5 x 3.0 mm)": GridSpec.centred((96, 96, 16), (0.5, 0.5, 3.0), CENTRE),
    "grid changed (96 x 96 x 16 at 0.6 x 0.6 x 3.3 mm)": GridSpec.centred((96, 96, 16), (0.6, 0.6, 3.3), CENTRE),
}
"""For a quick try."""
CONFIG = PreparationConfig()


def plainly(examination: Examination) -> list[np.ndarray]:
    """Whole volumes resampled, then cropped: as one would write it first. T2W, ADC, DWI, mask; axes (z, y, x)."""
    target = target_grid(grid_of(examination.t2w), CONFIG.spacing_mm)
    whole = [
        _resampled(sitk.Cast(image, sitk.sitkFloat32), target.size, target.spacing, sitk.sitkBSpline3)
        for image in examination.images
    ]
    whole.append(_resampled(examination.mask, target.size, target.spacing, sitk.sitkNearestNeighbor))
    gland = bounding_box(array_of(whole[3]))
    assert gland is not None
    roi = gland.widened(margin_in_voxels(CONFIG.margin_mm, CONFIG.spacing_mm), target.size)
    kept = tuple(slice(start, stop) for start, stop in zip(roi.start[::-1], roi.stop[::-1], strict=True))
    return [array_of(volume)[kept].copy() for volume in whole]


def _resampled(
    image: sitk.Image, size: tuple[int, int, int], spacing: tuple[float, float, float], interpolator: int
) -> sitk.Image:
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetInterpolator(interpolator)
    resampler.SetSize(size)
    resampler.SetOutputSpacing(spacing)
    resampler.SetOutputOrigin(image.GetOrigin())
    resampler.SetOutputDirection(image.GetDirection())
    return resampler.Execute(image)


def difference(ours: list[sitk.Image], plain: list[np.ndarray]) -> float:
    """The largest difference of the images, in parts of the value range; the masks must be equal."""
    assert np.array_equal(array_of(ours[3]), plain[3])
    return max(
        float(np.abs(array_of(image) - array).max() / np.ptp(array))
        for image, array in zip(ours[:3], plain[:3], strict=True)
    )


def measure(grid: GridSpec, repeat: int) -> dict[str, Any]:
    """Milliseconds of a case's parts and of the whole, each way, and how far both ways differ."""
    with tempfile.TemporaryDirectory() as folder:
        images, masks = (LocalStorage(path) for path in write_archive(Path(folder), 1, grids=[grid]))
        (case,) = take_inventory(images, masks).cases
        files = [*(images.local(key) for key in case.images), masks.local(case.mask)]
        output = LocalStorage(Path(folder, "prepared"))
        examination = read_examination(case, images, masks)
        volumes = prepare_volumes(case.id, examination, CONFIG)
        ours, plain = [*volumes.images, volumes.mask], [sitk.GetImageFromArray(one) for one in plainly(examination)]
        targets = [Path(folder, f"{number}.nii.gz") for number in range(4)]

        def whole() -> None:
            shutil.rmtree(output.folder, ignore_errors=True)
            publish_prepared(case, 0, images, masks, output, CONFIG)

        def whole_plainly() -> None:
            read = [sitk.ReadImage(str(file)) for file in files]
            for one, target in zip(plainly(Examination(*read, files=("",) * 4)), targets, strict=True):
                sitk.WriteImage(sitk.GetImageFromArray(one), str(target), True)

        whole()
        prepared = [output.local(key) for key in prepared_keys(case.id, 0)]
        record, _ = publish_prepared(case, 0, images, masks, output, CONFIG)
        work: dict[str, tuple[Callable[[], object] | None, Callable[[], object]]] = {
            "reading": (
                lambda: [sitk.ReadImage(str(file)) for file in files],
                lambda: read_examination(case, images, masks),
            ),
            "resampling and cropping": (
                lambda: plainly(examination),
                lambda: prepare_volumes(case.id, examination, CONFIG),
            ),
            "writing": (
                lambda: [sitk.WriteImage(one, str(file), True) for one, file in zip(plain, targets, strict=True)],
                lambda: [write_image(one, str(file)) for one, file in zip(ours, targets, strict=True)],
            ),
            "SHA-256": (None, lambda: [sha256_of(file) for file in (*files, *prepared)]),
            "whole case": (whole_plainly, whole),
            "picture, for the page": (None, lambda: draw_row(record, output)),
        }
        parts = {part: [_ms(plainly_done, repeat), _ms(done, repeat)] for part, (plainly_done, done) in work.items()}
        return {"parts_ms": parts, "difference": difference(ours, plainly(examination))}


def _ms(work: Callable[[], object] | None, repeat: int) -> float:
    return 1e3 * best_seconds(work, repeat, clock=time.process_time) if work else 0.0


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, of which the best counts (default: 3)")
    parser.add_argument("--tiny", action="store_true", help="small images, for a quick try")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    results = Results("preparation", {"repeat": options.repeat, "threads": 1}, options.json)
    for name, grid in (SMALL_GRIDS if options.tiny else GRIDS).items():
        found = measure(grid, options.repeat)
        results.add(name, found)
        rows = [(part, *_cells(*both)) for part, both in found["parts_ms"].items()]
        results.table(f"Preparation, {name}", ("a case, processor time", "plainly", "here", "ratio"), rows)
        results.note(f"{name}: both ways differ by at most {found['difference']:.1e} of the range.")


def _cells(plain_ms: float, ours_ms: float) -> tuple[str, str, str]:
    if not plain_ms:
        return "", f"{ours_ms:.0f} ms", ""
    return f"{plain_ms:.0f} ms", f"{ours_ms:.0f} ms", f"{plain_ms / ours_ms:.1f} x"


if __name__ == "__main__":
    main()
