"""The published preparation as one would write it first, with SimpleITK alone: the script that benchmarks compare with.

    python -m benchmarks.plain_preparation IMAGES MASKS OUTPUT

Each case of an nnU-Net raw archive is resampled whole to 0.5 x 0.5 x 3.0 mm, T2W, ADC and DWI by B-splines, the mask by
its nearest neighbour, then cropped to the gland plus 25 mm and written. It neither looks for damage nor writes records
or pages, and prepares everything again each time. It imports nothing of this package.
"""

import math
import sys
from pathlib import Path

import SimpleITK as sitk

SPACING_MM = (0.5, 0.5, 3.0)
MARGIN_MM = 25.0


def main() -> None:
    """Run from the command line."""
    images, masks, output = map(Path, sys.argv[1:])
    output.mkdir(parents=True, exist_ok=True)
    count = 0
    for mask in sorted(masks.glob("*.nii.gz")):
        case_id = mask.name.removesuffix(".nii.gz")
        files = [images / "imagesTr" / f"{case_id}_000{channel}.nii.gz" for channel in range(3)]
        volumes = [resampled(sitk.ReadImage(str(file), sitk.sitkFloat32), sitk.sitkBSpline) for file in files]
        zones = resampled(sitk.ReadImage(str(mask)), sitk.sitkNearestNeighbor)
        kept = around_gland(zones)
        for file, volume in zip([*files, mask], [*volumes, zones], strict=True):
            sitk.WriteImage(volume[kept], str(output / file.name), True)
        count += 1
    print(f"{count} cases")


def resampled(image: sitk.Image, interpolator: int) -> sitk.Image:
    """The whole image on the target grid."""
    lengths = [size * spacing for size, spacing in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    size = [round(length / spacing) for length, spacing in zip(lengths, SPACING_MM, strict=True)]
    place = (image.GetOrigin(), SPACING_MM, image.GetDirection())
    return sitk.Resample(image, size, sitk.Transform(), interpolator, *place)


def around_gland(zones: sitk.Image) -> tuple[slice, ...]:
    """Slices (x, y, z) of the gland plus the margin."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.Cast(zones > 0, sitk.sitkUInt8))
    box = shape.GetBoundingBox(1)
    kept = []
    for start, length, spacing, size in zip(box[:3], box[3:], SPACING_MM, zones.GetSize(), strict=True):
        margin = math.floor(MARGIN_MM / spacing)
        kept.append(slice(max(0, start - margin), min(size, start + length + margin)))
    return tuple(kept)


if __name__ == "__main__":
    main()
