"""The kernel shuffles as the library does, to the last bit: on a GPU, or in Triton's interpreter.

pip install triton
TRITON_INTERPRET=1 pytest tests/benchmarks/test_shuffling_kernel.py
"""

import dataclasses
import os

import pytest
import torch

from zssmnet.config import ShufflingConfig
from zssmnet.corruption.random import sample_keys
from zssmnet.corruption.shuffling import apply_shuffling
from zssmnet.corruption.windows import Shuffling, sample_shuffling, window_bounds

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or Triton and TRITON_INTERPRET=1", allow_module_level=True)
from benchmarks.shuffling_kernel import apply_by_kernel  # noqa: E402 (Triton is not everywhere)


def draw(shape: tuple[int, int, int, int], config: ShufflingConfig, *, from_first: bool = True) -> Shuffling:
    keys = sample_keys(3, torch.Generator().manual_seed(1))
    drawn = sample_shuffling(keys, shape, config, from_first_channel=from_first, device=DEVICE)
    return dataclasses.replace(drawn, bounds=window_bounds(shape[1:], config))


@pytest.mark.parametrize("from_first", [True, False])
@pytest.mark.parametrize(
    ("shape", "windows", "divisor", "dtype"),
    [
        ((4, 64, 64, 16), 60, 10, torch.float32),
        ((4, 30, 20, 10), 60, 5, torch.float16),
        ((4, 7, 5, 3), 30, 2, torch.float32),
        ((2, 9, 9, 1), 1, 1, torch.float64),
    ],
)
def test_shuffles_as_the_list_does(
    shape: tuple[int, int, int, int], windows: int, divisor: int, dtype: torch.dtype, from_first: bool
) -> None:
    config = ShufflingConfig(probability=0.8, windows=windows, largest_divisor=divisor)
    cubes, shuffling = torch.rand(3, *shape).to(DEVICE, dtype), draw(shape, config, from_first=from_first)
    found = apply_by_kernel(cubes, shuffling)
    assert found.dtype == dtype
    assert torch.equal(found, apply_shuffling(cubes, shuffling))
    assert not torch.equal(found, cubes)


def test_equal_numbers_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of 2 bits: in windows of up to 256 cells nearly all are equal to others."""
    for module in ("benchmarks.shuffling_kernel", "zssmnet.corruption.sorted_list", "zssmnet.corruption.windows"):
        monkeypatch.setattr(f"{module}.number_bits", lambda windows: 2)
    cubes = torch.rand(3, 4, 16, 16, 1, device=DEVICE)
    shuffling = draw((4, 16, 16, 1), ShufflingConfig(windows=8, largest_divisor=1))
    assert torch.equal(apply_by_kernel(cubes, shuffling), apply_shuffling(cubes, shuffling))


def test_nothing_to_shuffle() -> None:
    cubes = torch.rand(3, 4, 20, 20, 10, device=DEVICE)
    assert torch.equal(apply_by_kernel(cubes, draw((4, 20, 20, 10), ShufflingConfig(probability=0))), cubes)


def test_large_windows_are_refused() -> None:
    shuffling = draw((4, 30, 30, 10), ShufflingConfig(windows=2, largest_divisor=1))
    with pytest.raises(ValueError, match="at most 256 cells"):
        apply_by_kernel(torch.rand(3, 4, 30, 30, 10, device=DEVICE), shuffling)
