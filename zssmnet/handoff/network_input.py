"""A case as the network sees it: six channels, scaled as in pre-training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zssmnet.config import IntensityScaling, PreparationConfig
from zssmnet.data.examination import read_files
from zssmnet.data.image_io import array_of
from zssmnet.preparation.cubes import scaled_volume
from zssmnet.preparation.prepare import prepare_volumes
from zssmnet.storage import Address

CHANNEL_NAMES = ("T2W", "ADC", "DWI", "background", "peripheral zone", "rest of the gland")


def network_input(
    images: Sequence[Address],
    zonal_mask: Address,
    preparation: PreparationConfig | None = None,
    intensity_scaling: IntensityScaling = "maximum",
) -> Tensor:
    """Read a case from files as the network takes it.

    Args:
        images: local files of T2W, ADC and DWI, see `read_files`: prepared ones (`SSL/data/subset{k}`), or raw ones.
        zonal_mask: local file of the zonal mask on T2W's grid.
        preparation: resample and crop the files like this first, as raw ones need it (`PreparationConfig()`); None
            takes them on T2W's grid as it is.
        intensity_scaling: of T2W and DWI, as in pre-training: `maximum`, or `percentile`, see `CubesConfig`.

    Returns:
        Float32 tensor (6, Z, Y, X): T2W, ADC, DWI, and one channel for each zone: background, peripheral zone, rest
        of the gland. T2W and DWI are in 0..1 by their own minimum and maximum in the volume, ADC (1e-6 mm2/s) is
        clipped to 0..3000 and divided by 3000.

    Raises:
        InputError: not three images.
        CaseError: a file is missing, unreadable or cannot be used.

    Example:
        >>> x = network_input(["a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz"], "a.nii.gz")  # doctest: +SKIP
        >>> model(x[None])  # doctest: +SKIP
    """
    case_id, examination = read_files(images, zonal_mask)
    if preparation is None:
        return torch.from_numpy(input_CZYX(examination.images, examination.mask, intensity_scaling))
    prepared = prepare_volumes(case_id, examination, PreparationConfig.of(preparation))
    return torch.from_numpy(input_CZYX(prepared.images, prepared.mask, intensity_scaling))


def input_CZYX(  # noqa: N802  (axes)
    images: tuple[Any, Any, Any], mask: Any, intensity_scaling: IntensityScaling = "maximum"
) -> npt.NDArray[np.float32]:
    """The six channels of a case, axes (channel, z, y, x), of its SimpleITK images T2W, ADC, DWI and zonal mask."""
    t2w, adc, dwi = (array_of(image) for image in images)
    volume_CZYX = scaled_volume((t2w, adc, dwi), array_of(mask), intensity_scaling).transpose(0, 3, 2, 1)
    zones = [volume_CZYX[3] == zone for zone in range(3)]
    return np.concatenate([volume_CZYX[:3], np.stack(zones)], dtype=np.float32)
