"""Dropout in training mode: the moments over the masks."""

from __future__ import annotations

from bayes_influence.moments.activations import SELU_ALPHA, SELU_SCALE
from bayes_influence.moments.joint import descend
from bayes_influence.moments.moments import Moments, assign
from bayes_influence.moments.registry import rule

_SELU_NEGATIVE_LIMIT = -SELU_SCALE * SELU_ALPHA
"""Where SELU saturates: what alpha dropout puts in place of a dropped entry."""


@rule("dropout1d", "dropout2d", "dropout3d", entrywise=True, covariant=True)
def channel_dropout(input: Moments, p: float = 0.5, training: bool = True, inplace: bool = False) -> Moments:
    """As `dropout`: each entry's own moments are the same when its channel is dropped as a whole."""
    return dropout(input, p, training, inplace)


@rule("dropout", entrywise=True, covariant=True)
def dropout(input: Moments, p: float = 0.5, training: bool = True, inplace: bool = False) -> Moments:
    """In training mode m and (v + p m^2) / (1 - p), over the masks as well; in evaluation mode the input.

    The covariance of two entries is what it was, as E b / (1 - p) = 1 for either's own mask b.

    Raises:
        ValueError: If p is not in [0, 1).
    """
    if not training:
        return input
    _check_probability(p)
    variance = (input.variance + p * input.expectation.square()) / (1 - p)
    covariance = input.covariance and input.covariance.scaled(1.0)
    dropped = Moments(input.expectation, variance, input.approximation, covariance)
    descend(dropped, input, lambda: 1.0, affine=False)
    return assign(input, dropped) if inplace else dropped


@rule("alpha_dropout", "feature_alpha_dropout", entrywise=True, covariant=True)
def alpha_dropout(input: Moments, p: float = 0.5, training: bool = False, inplace: bool = False) -> Moments:
    """In training mode the moments of a (x b + l (1 - b)) + c over the Bernoulli(1 - p) masks b as well.

    l is SELU's negative limit, and a = ((1 - p)(1 + p l^2))^(-1/2), c = -a p l keep mean 0 and variance 1 (Klambauer
    et al. 2017). In evaluation mode the input.

    Raises:
        ValueError: If p is not in [0, 1).
    """
    if not training:
        return input
    _check_probability(p)
    limit = _SELU_NEGATIVE_LIMIT
    scale = ((1 - p) * (1 + p * limit**2)) ** -0.5
    mean = scale * (1 - p) * input.expectation
    variance = scale**2 * (1 - p) * (input.variance + p * (input.expectation - limit).square())
    covariance = input.covariance and input.covariance.scaled(scale * (1 - p))
    dropped = Moments(mean, variance, input.approximation, covariance)
    descend(dropped, input, lambda: scale * (1 - p), affine=False)
    return assign(input, dropped) if inplace else dropped


def _check_probability(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"the dropout probability must lie in [0, 1), got {p}")
