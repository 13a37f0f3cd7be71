"""What was measured in the gland: ADC in its unit, and how much of the gland ADC and DWI cover."""

import math

import numpy as np
import SimpleITK as sitk

from zssmnet.config import PreparationConfig
from zssmnet.data.archive import CHANNELS
from zssmnet.data.coverage import covered, padding
from zssmnet.data.examination import Examination
from zssmnet.data.image_io import array_of, image_like
from zssmnet.errors import CaseError
from zssmnet.preparation.cropping import bounding_box, margin_in_voxels

TYPICAL_ADC = 1250.0
"""In the gland, in 1e-6 mm2/s: peripheral zone 1400 to 1900, the rest 1000 to 1500, cancer 600 to 1000."""
_UNITS = {12: "m2/s", 8: "cm2/s", 6: "mm2/s", 3: "1e-3 mm2/s", -1: "1e-7 mm2/s", -3: "1e-9 mm2/s"}
"""Those that files have, by the power of ten that converts them; 8 bits, or another image, give other powers."""
_EXPECTED = "expected 400 to 4000 in 1e-6 mm2/s"


def in_common_unit(adc: sitk.Image, mask: sitk.Image, convert: bool) -> tuple[sitk.Image, str | None]:
    """ADC in 1e-6 mm2/s, the common unit, and a warning if the file has another one.

    Args:
        adc: the image; the median of its values in the gland, zeros aside, shows the power of ten.
        convert: whether to multiply; else the image stays as it is.
    """
    values = array_of(adc)[array_of(mask) > 0]
    values = values[values != 0]
    if not len(values):
        return adc, None  # reported as not covering the gland
    if (median := float(np.median(values))) <= 0:
        return adc, f"ADC's median in the gland is {median:.3g}: {_EXPECTED}; it is no ADC map"
    if not (exponent := round(math.log10(TYPICAL_ADC / median))):
        return adc, None
    found, factor = f"ADC's median in the gland is {median:.3g}: {_EXPECTED}", f"{10.0**-exponent:g}"
    if exponent not in _UNITS:
        no_unit = f"wrong by a factor of {factor}; the setting convert_adc does not help: no unit of ADC has it"
        return adc, f"{found}; {no_unit}, so it is no ADC map, or one that was scaled"
    found += f", so it seems to be in {_UNITS[exponent]}"
    if not convert:
        return adc, f"{found}, wrong by a factor of {factor}; the setting convert_adc converts it"
    converted = image_like(array_of(adc).astype(np.float32) * np.float32(10.0**exponent), adc)
    return converted, f"{found}, and was multiplied by {10.0**exponent:g}"


def uncovered(case_id: str, examination: Examination, config: PreparationConfig) -> list[str]:
    """Warnings about ADC and DWI where they do not cover the gland, or the margin around it, on T2W's grid.

    Where both lay on grids of their own these decide; in an archive that was resampled by others, rows and columns of
    zeros do.

    Raises:
        CaseError: too large a share is not covered.
    """
    mask = array_of(examination.mask)
    gland = bounding_box(mask)
    if gland is None:
        return []
    region = gland.widened(
        margin_in_voxels(config.margin_mm, examination.mask.GetSpacing()), examination.mask.GetSize()
    )
    window = region.window_ZYX
    is_gland, warnings = mask[window] > 0, []
    for number in (1, 2):
        if examination.measured:
            z, y, x = (np.arange(part.start, part.stop) for part in window)
            image = examination.measured[number - 1]
            outside = ~covered(image, examination.t2w, x, y[:, None], z[:, None, None])
        else:
            outside = padding(array_of(examination.images[number]), window)
        shares = {"the gland": float(outside[is_gland].mean()), "the region of interest": float(outside.mean())}
        for (what, share), limits in zip(
            shares.items(), (config.uncovered_gland, config.uncovered_region), strict=True
        ):
            found = f"does not cover {share:.1%} of {what}"
            if share > limits[1]:
                reason = f"{CHANNELS[number]} {found}; there is no value there"
                raise CaseError(case_id, examination.files[number], reason)
            if share > limits[0]:
                warnings.append(f"{CHANNELS[number]} {found}: values there are 0")
    return warnings
