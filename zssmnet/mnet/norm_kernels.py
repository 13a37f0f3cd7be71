"""Triton kernels of instance norm and LeakyReLU, channels last, forward and backward: two passes each.

The voxels of each cube are split among programs. A first pass leaves the moments, or sums, of each part; the second one
puts those of its cube together, and computes. Nothing is added up in an order that varies. Features are (N, V, C) in
memory; moments and sums are float32.

Imported only where Triton is; its interpreter (`TRITON_INTERPRET=1`) runs this on a CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096
"""Values that a program has at hand at once."""
PROGRAMS, MOST_PARTS = 768, 64
"""Programs wanted, some for each of a GPU's processors; parts of a cube at most: each program reads what all left."""


@triton.jit
def _tile(start, end, C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Places of a tile's values in its cube, and which of them there are."""
    row, channel = start + tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    return row * C + channel, (row < end) & (channel < C)


@triton.jit
def _channels(source, C: tl.constexpr, WIDTH: tl.constexpr):
    """A float32 value for each channel."""
    channel = tl.arange(0, WIDTH)
    return tl.load(source + channel, mask=channel < C, other=0.0)


@triton.jit
def _parts(source, cube, C: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Both values that each part of a cube left for each channel: (PARTS, WIDTH)."""
    channel = tl.arange(0, WIDTH)[None, :]
    place = (cube * 2 * PARTS + tl.arange(0, PARTS)[:, None]) * C + channel
    there = tl.broadcast_to(channel < C, place.shape)
    return tl.load(source + place, mask=there, other=0.0), tl.load(source + place + PARTS * C, mask=there, other=0.0)


@triton.jit
def _store_pair(target, first, second, place, apart, C: tl.constexpr, WIDTH: tl.constexpr):
    channel = tl.arange(0, WIDTH)
    tl.store(target + place * C + channel, first, mask=channel < C)
    tl.store(target + (place + apart) * C + channel, second, mask=channel < C)


@triton.jit
def _moments_of_parts(
    features, parts, voxels, length, C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr
):
    """Mean and sum of squared deviations of each part; what is added up is relative to its first voxel."""
    part, cube = tl.program_id(0), tl.program_id(1)
    begin, end = part * length, tl.minimum((part + 1) * length, voxels)
    features += cube.to(tl.int64) * voxels * C
    first, channel = tl.minimum(begin, voxels - 1), tl.arange(0, WIDTH)
    origin = tl.load(features + first * C + channel, mask=channel < C, other=0.0).to(tl.float32)
    sums, squares = tl.zeros((ROWS, WIDTH), tl.float32), tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(begin, end, ROWS):
        place, there = _tile(start, end, C, ROWS, WIDTH)
        values = tl.load(features + place, mask=there, other=0.0).to(tl.float32)
        values = tl.where(there, values - origin[None, :], 0.0)
        sums += values
        squares += values * values
    count = tl.maximum(end - begin, 1).to(tl.float32)
    shift = tl.sum(sums, axis=0) / count
    deviations = tl.sum(squares, axis=0) - count * shift * shift
    _store_pair(parts, origin + shift, deviations, cube * 2 * PARTS + part, PARTS, C, WIDTH)


@triton.jit
def _activate(
    features, parts, weight, bias, activated, moments, voxels, length, cubes, eps, slope,
    C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Normalised and activated features, and each cube's mean and 1 / standard deviation."""
    part, cube = tl.program_id(0), tl.program_id(1)
    begin, end = part * length, tl.minimum((part + 1) * length, voxels)
    means, deviations = _parts(parts, cube, C, WIDTH, PARTS)
    counts = tl.minimum(tl.maximum(voxels - tl.arange(0, PARTS) * length, 0), length).to(tl.float32)[:, None]
    mean = tl.sum(means * counts, axis=0) / voxels
    apart = means - mean[None, :]
    inverse = 1 / tl.sqrt(tl.sum(deviations + counts * apart * apart, axis=0) / voxels + eps)
    if part == 0:
        _store_pair(moments, mean, inverse, cube, cubes, C, WIDTH)
    scale, shift = inverse * _channels(weight, C, WIDTH), _channels(bias, C, WIDTH)
    offset = cube.to(tl.int64) * voxels * C
    for start in range(begin, end, ROWS):
        place, there = _tile(start, end, C, ROWS, WIDTH)
        values = tl.load(features + offset + place, mask=there, other=0.0).to(tl.float32)
        normed = (values - mean[None, :]) * scale[None, :] + shift[None, :]
        normed = tl.where(normed > 0, normed, normed * slope)
        tl.store(activated + offset + place, normed.to(activated.dtype.element_ty), mask=there)


@triton.jit
def _gradient_of_normed(gradient, features, place, there, mean, inverse, weight, bias, slope):
    """Gradient of the normalised features before the activation, and the features normalised."""
    given = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
    values = tl.load(features + place, mask=there, other=0.0).to(tl.float32) - mean[None, :]
    rises = values * (inverse * weight)[None, :] + bias[None, :] > 0
    return tl.where(rises, given, given * slope), values * inverse[None, :]


@triton.jit
def _sums_of_parts(
    gradient, features, moments, weight, bias, parts, voxels, length, cubes, slope,
    C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Sums of each part: of the normalised features' gradient times themselves, and of their gradient."""
    part, cube = tl.program_id(0), tl.program_id(1)
    begin, end = part * length, tl.minimum((part + 1) * length, voxels)
    mean = _channels(moments + cube * C, C, WIDTH)
    inverse = _channels(moments + (cubes + cube) * C, C, WIDTH)
    scale, shift = _channels(weight, C, WIDTH), _channels(bias, C, WIDTH)
    offset = cube.to(tl.int64) * voxels * C
    products, sums = tl.zeros((ROWS, WIDTH), tl.float32), tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(begin, end, ROWS):
        place, there = _tile(start, end, C, ROWS, WIDTH)
        given, normed = _gradient_of_normed(
            gradient + offset, features + offset, place, there, mean, inverse, scale, shift, slope
        )
        products += given * tl.where(there, normed, 0.0)
        sums += given
    _store_pair(parts, tl.sum(products, axis=0), tl.sum(sums, axis=0), cube * 2 * PARTS + part, PARTS, C, WIDTH)


@triton.jit
def _gradient_of_features(
    gradient, features, moments, weight, bias, parts, given, sums, voxels, length, cubes, slope,
    C: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """weight / std * (g - mean(g) - y * mean(g * y)), y the normalised features; and the sums of each cube."""
    part, cube = tl.program_id(0), tl.program_id(1)
    begin, end = part * length, tl.minimum((part + 1) * length, voxels)
    products_of_parts, sums_of_parts = _parts(parts, cube, C, WIDTH, PARTS)
    products, total = tl.sum(products_of_parts, axis=0), tl.sum(sums_of_parts, axis=0)
    if part == 0:
        _store_pair(sums, products, total, cube, cubes, C, WIDTH)
    mean = _channels(moments + cube * C, C, WIDTH)
    inverse = _channels(moments + (cubes + cube) * C, C, WIDTH)
    scale, shift = _channels(weight, C, WIDTH), _channels(bias, C, WIDTH)
    offset = cube.to(tl.int64) * voxels * C
    for start in range(begin, end, ROWS):
        place, there = _tile(start, end, C, ROWS, WIDTH)
        one, normed = _gradient_of_normed(
            gradient + offset, features + offset, place, there, mean, inverse, scale, shift, slope
        )
        one = one - (total / voxels)[None, :] - normed * (products / voxels)[None, :]
        one = one * (inverse * scale)[None, :]
        tl.store(given + offset + place, one.to(given.dtype.element_ty), mask=there)


def forward(features: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor]:
    """See `zssmnet.mnet.fused`."""
    n, c, voxels, length, parts, sizes = _plan(features)
    activated, moments = torch.empty_like(features), _float32(features, 2, n, c)
    of_parts, grid = _float32(features, n, 2, parts, c), (parts, n)
    _moments_of_parts[grid](features, of_parts, voxels, length, **sizes)
    _activate[grid](features, of_parts, weight, bias, activated, moments, voxels, length, n, eps, slope, **sizes)
    return activated, moments


def backward(
    gradient: Tensor, features: Tensor, moments: Tensor, weight: Tensor, bias: Tensor, slope: float
) -> tuple[Tensor, Tensor]:
    """See `zssmnet.mnet.fused`."""
    n, c, voxels, length, parts, sizes = _plan(features)
    given, sums = torch.empty_like(features), _float32(features, 2, n, c)
    of_parts, grid = _float32(features, n, 2, parts, c), (parts, n)
    taken = (gradient, features, moments, weight, bias, of_parts)
    _sums_of_parts[grid](*taken, voxels, length, n, slope, **sizes)
    _gradient_of_features[grid](*taken, given, sums, voxels, length, n, slope, **sizes)
    return given, sums


def _plan(features: Tensor) -> tuple[int, int, int, int, int, dict[str, int]]:
    """Cubes, channels, voxels of a cube, voxels of a part, parts of a cube, and the sizes that are compiled in."""
    n, c, *size = features.shape
    voxels = size[0] * size[1] * size[2]
    width = triton.next_power_of_2(c)
    rows = TILE // width
    wanted = min(MOST_PARTS, triton.cdiv(PROGRAMS, n), triton.cdiv(voxels, rows))
    parts = triton.next_power_of_2(wanted)
    length = triton.cdiv(triton.cdiv(voxels, parts), rows) * rows
    return n, c, voxels, length, parts, {"C": c, "ROWS": rows, "WIDTH": width, "PARTS": parts}


def _float32(features: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=features.device)
