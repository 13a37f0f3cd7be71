"""What several of these tests need: bounds of what random draws may give."""

import math

from torch import Tensor


def assert_rate(hits: Tensor, probability: float, sigmas: float = 4.0) -> None:
    """The share of hits among independent draws lies within so many standard deviations of its probability."""
    sigma = math.sqrt(probability * (1 - probability) / hits.numel())
    share = hits.double().mean().item()
    assert abs(share - probability) <= sigmas * sigma, f"{share:.5f}, not {probability:.5f} ± {sigma:.5f}"


def assert_even(counts: Tensor, sigmas: float = 4.0) -> None:
    """Counts of equally likely outcomes: their chi-square lies within so many standard deviations of its mean."""
    expected = counts.sum().item() / counts.numel()
    chi_square = ((counts.double() - expected) ** 2 / expected).sum().item()
    freedom = counts.numel() - 1
    assert abs(chi_square - freedom) <= sigmas * math.sqrt(2 * freedom), f"chi-square {chi_square:.1f} of {freedom}"


def assert_uncorrelated(first: Tensor, second: Tensor, sigmas: float = 4.0) -> None:
    """Pearson's correlation of two rows of draws lies within so many standard deviations of 0."""
    a, b = (row.double().flatten() - row.double().mean() for row in (first, second))
    correlation = (a @ b / (a.norm() * b.norm())).item()
    assert abs(correlation) <= sigmas / math.sqrt(a.numel()), f"correlation {correlation:.5f} of {a.numel()}"
