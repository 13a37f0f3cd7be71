"""Triton kernels of the absolute difference of two tensors that lie in memory alike, forward and backward.

Imported only where Triton is; its interpreter (`TRITON_INTERPRET=1`) runs this on a CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _difference(one, other, result, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < count
    difference = tl.load(one + place, mask=there).to(tl.float32) - tl.load(other + place, mask=there).to(tl.float32)
    tl.store(result + place, tl.abs(difference).to(result.dtype.element_ty), mask=there)


@triton.jit
def _gradients(gradient, one, other, of_one, of_other, count, apart, C: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < count
    a, b = tl.load(one + place, mask=there).to(tl.float32), tl.load(other + place, mask=there).to(tl.float32)
    given = tl.load(gradient + place // C * apart + place % C, mask=there).to(tl.float32)
    given = tl.where(a > b, given, tl.where(a < b, -given, tl.where(a == b, 0.0, a - b)))  # NaN stays
    tl.store(of_one + place, given.to(of_one.dtype.element_ty), mask=there)
    tl.store(of_other + place, (-given).to(of_other.dtype.element_ty), mask=there)


def forward(one: Tensor, other: Tensor) -> Tensor:
    """The absolute difference."""
    result = torch.empty_like(one)
    _difference[(triton.cdiv(one.numel(), BLOCK),)](one, other, result, one.numel(), BLOCK=BLOCK)
    return result


def backward(gradient_VC: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of both, from that of the difference: (voxels of all cubes, C), perhaps a part of its channels."""
    given, count, apart = (torch.empty_like(one), torch.empty_like(one)), one.numel(), gradient_VC.stride(0)
    _gradients[(triton.cdiv(count, BLOCK),)](gradient_VC, one, other, *given, count, apart, C=one.shape[1], BLOCK=BLOCK)
    return given
