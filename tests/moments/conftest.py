"""Gaussian samples as the referee of moments."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bayes_influence.moments import Moments

STANDARD_ERRORS = 5
"""Agreement is asked to within this many standard errors of the samples' own moments."""


def _assert_match(moments: Moments, samples: Tensor) -> None:
    n = len(samples)
    mean, centred = samples.mean(0), samples - samples.mean(0)
    variance = centred.square().mean(0)
    mean_error = (variance / n).sqrt()
    variance_error = ((centred**4).mean(0) - variance.square()).clamp(min=0).div(n).sqrt()
    rounding = 1e-12
    assert ((moments.expectation - mean).abs() <= STANDARD_ERRORS * mean_error + rounding).all()
    assert ((moments.variance - variance).abs() <= STANDARD_ERRORS * variance_error + rounding).all()


def _draw(moments: Moments, n: int) -> Tensor:
    noise = torch.randn(n, *moments.shape, dtype=moments.dtype)
    return moments.expectation + moments.variance.sqrt() * noise


@pytest.fixture
def assert_match() -> Callable[[Moments, Tensor], None]:
    """Asserts that propagated moments are those of samples on a leading axis, within their standard errors."""
    return _assert_match


@pytest.fixture
def draw() -> Callable[[Moments, int], Tensor]:
    """Draws n samples of independent Gaussians with the given moments."""
    return _draw
