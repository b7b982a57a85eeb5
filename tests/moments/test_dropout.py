import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.moments import Moments

DOUBLE = torch.float64
N = 100_000


@pytest.fixture
def x():
    return Moments(torch.randn(2, 3, dtype=DOUBLE), torch.rand(2, 3, dtype=DOUBLE))


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.AlphaDropout(0.2)], ids=str)
def test_training_mode_against_sampled_masks(layer, x, draw, assert_match):
    assert_match(layer.train()(x), layer(draw(x, N)))


def test_dropping_whole_channels_leaves_each_entry_the_same_moments(draw, assert_match):
    x = Moments(torch.randn(1, 2, 3, dtype=DOUBLE), torch.rand(1, 2, 3, dtype=DOUBLE))
    samples = functional.dropout1d(draw(x, N)[:, 0], 0.4)[:, None]
    assert_match(nn.Dropout1d(0.4)(x), samples)


@pytest.mark.parametrize(
    "layer", [nn.Dropout(), nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()]
)
def test_evaluation_mode_is_the_identity(layer, x):
    assert layer.eval()(x) is x


def test_dropping_everything_is_refused(x):
    for layer in (nn.Dropout(1.0), nn.AlphaDropout(1.0)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1\.0"):
            layer(x)


@pytest.mark.parametrize("layer", [nn.Dropout(0.0), nn.AlphaDropout(0.0)])
def test_dropping_nothing_changes_nothing(layer, x):
    dropped = layer.train()(x)
    torch.testing.assert_close(dropped.expectation, x.expectation)
    torch.testing.assert_close(dropped.variance, x.variance)


def test_half_is_dropped_unless_said_otherwise(x):
    half = 2 * (x.variance + 0.5 * x.expectation.square())
    for drop in (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d):
        torch.testing.assert_close(drop(x).variance, half)
    alpha = functional.alpha_dropout
    assert alpha(x) is x
    torch.testing.assert_close(alpha(x, training=True).variance, alpha(x, 0.5, True).variance)
