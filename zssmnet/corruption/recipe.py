"""The pretext task: corrupted cubes in, the uncorrupted images as the target.

The corruption is defined in x, y, z, as files of cubes are: draw number i of a cube belongs to voxel i in that order,
and the steps compute so. Here is the border: `corrupt` turns what comes in and what goes out, and everything above it
is in (cube, channel, z, y, x).

Sources: Models Genesis, Med. Image Anal. 67:101840; Z-SSMNet, arXiv 2212.05808; masked autoencoders, arXiv 2111.06377.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from zssmnet.config import CorruptionConfig, Recipe
from zssmnet.corruption.flip import apply_flip, sample_flip
from zssmnet.corruption.intensity import apply_intensity, sample_intensity
from zssmnet.corruption.masking import HIDDEN, find_hidden, sample_masking
from zssmnet.corruption.painting import apply_painting, sample_painting
from zssmnet.corruption.random import Stream, happens, sample_keys
from zssmnet.corruption.shuffling import apply_shuffling, choose_padded, sample_shuffling

LAYOUT = torch.channels_last_3d
"""Memory layout of what networks take: 2 to 9 times faster on a CPU than channels first, and best for tensor cores."""
IMAGE_CHANNELS = 3  # channels T2W, ADC, DWI; the mask follows
ZONE_CHANNELS = 3  # mask values 0 background, 1 peripheral zone, 2 rest of the gland


def swap_x_and_z(volume: Tensor) -> Tensor:
    """Turn (..., x, y, z) into (..., z, y, x), or back: a view, nothing is copied."""
    return volume.transpose(-3, -1)


class Corrupted(NamedTuple):
    """The network's input and what it is to restore.

    Attributes:
        input_NCZYX: (N, 6, Z, Y, X), float32: the corrupted T2W, ADC and DWI, then background, peripheral zone and
            rest of the gland as zeros and ones. A voxel without a zone has three zeros, a hidden one -1.
        target_NCZYX: (N, 3, Z, Y, X), float32: T2W, ADC and DWI, flipped like the input and otherwise uncorrupted. With
            the co-task (N, 6, Z, Y, X): then the zones of cubes whose zone channels are blank, zeros for the others.
    """

    input_NCZYX: Tensor
    target_NCZYX: Tensor


class Corruption:
    """The pretext task as a callable on batches.

    Args:
        config: probabilities and sizes of the steps, or the name of a recipe with its defaults; by default the
            published method's.

    Raises:
        ConfigError: no such recipe.

    >>> cubes_NCZYX = torch.rand(2, 4, 8, 16, 16)
    >>> corruption = Corruption("per-channel")
    >>> input_NCZYX, target_NCZYX = corruption(cubes_NCZYX, torch.Generator().manual_seed(0))
    >>> input_NCZYX.shape, target_NCZYX.shape
    (torch.Size([2, 6, 8, 16, 16]), torch.Size([2, 3, 8, 16, 16]))
    """

    def __init__(self, config: CorruptionConfig | Recipe = "reference") -> None:
        self.config = config if isinstance(config, CorruptionConfig) else CorruptionConfig(recipe=config)

    def __call__(self, cubes_NCZYX: Tensor, generator: torch.Generator) -> Corrupted:
        """Corrupt a batch, each cube by a key that is drawn for it; see `corrupt`.

        Args:
            cubes_NCZYX: cubes (N, 4, Z, Y, X), channels T2W, ADC, DWI in 0..1 and the mask (0, 1, 2); not changed.
            generator: a CPU generator, the only source of randomness; it advances by N draws.

        Returns:
            Input (N, 6, Z, Y, X) and target (N, 3, Z, Y, X), on the device of the cubes.

        Raises:
            ValueError: cubes of another shape or dtype, or no generator.
        """
        if not isinstance(generator, torch.Generator):
            raise ValueError(f"generator must be a torch.Generator of the CPU, not {generator!r}")
        keys_N = sample_keys(len(cubes_NCZYX), generator)
        return corrupt(cubes_NCZYX, keys_N, self.config)


def channels_to_shuffle(keys_N: Tensor, config: CorruptionConfig) -> Tensor | None:
    """The shuffled channels of a batch as `corrupt` takes them, padded so that nothing depends on how many they are.

    Args:
        keys_N: the cubes' keys, on the CPU.

    Returns:
        int64; None for the rare batch that has more of them than usual.
    """
    if config.recipe == "masked":
        return keys_N[:0]
    return choose_padded(keys_N, IMAGE_CHANNELS + 1, config.shuffling)


def corrupt(
    cubes_NCZYX: Tensor, keys_N: Tensor, config: CorruptionConfig, shuffled_P: Tensor | None = None
) -> Corrupted:
    """Corrupt cubes, each as its key determines, whatever the batch or the device.

    The steps: flip, local shuffling, intensity map of the images, painting, mask to zones; in the recipe `masked`
    flip, hiding, mask to zones. By recipe:

    - `reference`, as the published program: every channel, the mask included, is shuffled with values of T2W. A
      corrupted mask voxel has a zone only if its value happens to be exactly 0, 1 or 2; most lose theirs.
    - `per-channel`: each channel is shuffled with its own values. A shuffled mask voxel has the zone that moved
      there, a painted one none.
    - `masked`: blocks of the images are hidden, which is the value -1. The mask is flipped, and otherwise kept.

    With `zone_task`, zone channels are blank (zeros) in a share of the cubes, in any recipe, and their zones a target.

    Args:
        cubes_NCZYX: cubes (N, 4, Z, Y, X), channels T2W, ADC, DWI in 0..1 and the mask (0, 1, 2), any float dtype;
            not changed. Fastest if they lie in memory as in files, with z innermost, as `CubeSet` gives them.
        keys_N: one key a cube, int64, from `sample_keys`; on any device. With keys on the CPU the host never waits
            for the cubes' device.
        config: the pretext task.
        shuffled_P: from `channels_to_shuffle`, on the cubes' device, as the keys then are; None draws them here.

    Returns:
        Input and target, on the device of the cubes, in the memory layout that convolutions are fastest with.

    Raises:
        ValueError: cubes or keys of another shape or dtype.
    """
    _check(cubes_NCZYX, keys_N)
    if cubes_NCZYX.device.type == "cpu" and len(keys_N) > 1 and shuffled_P is None:  # a cube fits into its caches
        return _one_by_one(cubes_NCZYX, keys_N, config)
    cubes_NCXYZ = swap_x_and_z(cubes_NCZYX)
    if config.recipe == "masked":
        input_NCXYZ, cubes_NCXYZ = _masked(cubes_NCXYZ, keys_N, config)
    else:
        input_NCXYZ, cubes_NCXYZ = _distorted(cubes_NCXYZ, keys_N, config, shuffled_P)
    target_NCXYZ = cubes_NCXYZ[:, :IMAGE_CHANNELS]
    if config.zone_task.share:
        blank_N = happens(keys_N, Stream.BLANK_ZONES, (1, 1, 1, 1), config.zone_task.share)
        blank_N = blank_N.to(cubes_NCXYZ.device, non_blocking=True)
        input_NCXYZ[:, IMAGE_CHANNELS:] *= ~blank_N
        target_NCXYZ = torch.cat((target_NCXYZ, mask_to_zones(cubes_NCXYZ[:, IMAGE_CHANNELS]) & blank_N), dim=1)
    both_NCXYZ = input_NCXYZ, target_NCXYZ
    return Corrupted(*(swap_x_and_z(one).contiguous(memory_format=LAYOUT) for one in both_NCXYZ))


def _one_by_one(cubes_NCZYX: Tensor, keys_N: Tensor, config: CorruptionConfig) -> Corrupted:
    both: list[Tensor] = []
    for number, (cube, key) in enumerate(zip(torch.split(cubes_NCZYX, 1), torch.split(keys_N, 1), strict=True)):
        one = corrupt(cube, key, config)
        both = both or [torch.empty((len(keys_N), *part.shape[1:]), memory_format=LAYOUT) for part in one]
        for whole, part in zip(both, one, strict=True):
            whole[number] = part[0]
    return Corrupted(*both)


def _masked(cubes_NCXYZ: Tensor, keys_N: Tensor, config: CorruptionConfig) -> tuple[Tensor, Tensor]:
    """Input of the recipe `masked`, and the flipped cubes."""
    keys_N = keys_N.to(cubes_NCXYZ.device, non_blocking=True)
    flipped = apply_flip(cubes_NCXYZ, sample_flip(keys_N, config.flip)).float()
    images = flipped[:, :IMAGE_CHANNELS]
    blocks = sample_masking(keys_N, tuple(images.shape[1:]), config.masking)
    hidden = find_hidden(blocks, images.shape[2:], config.masking.block)
    return torch.cat((images.masked_fill(hidden, HIDDEN), mask_to_zones(flipped[:, IMAGE_CHANNELS])), dim=1), flipped


def _distorted(
    cubes_NCXYZ: Tensor, keys_N: Tensor, config: CorruptionConfig, shuffled_P: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Input of the recipes `reference` and `per-channel`, and the flipped cubes."""
    shape_CXYZ, device = tuple(cubes_NCXYZ.shape[1:]), cubes_NCXYZ.device
    from_t2w = config.recipe == "reference"
    shuffling = sample_shuffling(
        keys_N, shape_CXYZ, config.shuffling, from_first_channel=from_t2w, device=device, chosen_P=shuffled_P
    )
    keys_N = keys_N.to(device, non_blocking=True)

    flipped = apply_flip(cubes_NCXYZ, sample_flip(keys_N, config.flip)).float()
    corrupted = apply_shuffling(flipped, shuffling)
    intensity = sample_intensity(keys_N, config.intensity)
    corrupted[:, :IMAGE_CHANNELS] = apply_intensity(
        corrupted[:, :IMAGE_CHANNELS], intensity, config.intensity.table_size
    )
    corrupted, painted = apply_painting(corrupted, sample_painting(keys_N, shape_CXYZ, config.painting))

    zones = mask_to_zones(corrupted[:, IMAGE_CHANNELS])
    if not from_t2w:
        zones &= ~painted[:, IMAGE_CHANNELS:]  # noise may happen to be exactly 0, which is no background
    return torch.cat((corrupted[:, :IMAGE_CHANNELS], zones), dim=1), flipped


def mask_to_zones(mask_NXYZ: Tensor) -> Tensor:
    """Where the mask is exactly 0, 1 and 2: bool, (N, 3, X, Y, Z)."""
    return torch.stack([mask_NXYZ == zone for zone in range(ZONE_CHANNELS)], dim=1)


def _check(cubes_NCZYX: Tensor, keys_N: Tensor) -> None:
    if not isinstance(cubes_NCZYX, Tensor):
        raise ValueError(f"cubes must be a tensor (N, 4, Z, Y, X), not {type(cubes_NCZYX).__name__}")
    shape = tuple(cubes_NCZYX.shape)
    if len(shape) != 5 or shape[1] != IMAGE_CHANNELS + 1 or 0 in shape[2:]:
        raise ValueError(f"cubes must be (N, 4, Z, Y, X) with channels T2W, ADC, DWI, mask, not {shape}")
    if not cubes_NCZYX.is_floating_point():
        raise ValueError(f"cubes must be of a float dtype, not {cubes_NCZYX.dtype}")
    if keys_N.shape != shape[:1] or keys_N.dtype != torch.int64:
        raise ValueError(
            f"{shape[0]} cubes need as many int64 keys, not {tuple(keys_N.shape)} of {keys_N.dtype}; "
            "draw them with sample_keys"
        )
