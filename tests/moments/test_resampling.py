import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from bayes_influence.moments import Moments, UnsupportedOperationError, check_twin, to_bayesian

DOUBLE = torch.float64
CASES = [
    ((2, 3, 5), {"size": 8, "mode": "nearest"}),
    ((2, 3, 5), {"scale_factor": 1.7, "mode": "nearest-exact"}),
    ((2, 3, 5), {"size": 3, "mode": "linear"}),
    ((1, 2, 3, 4), {"scale_factor": 2, "mode": "bilinear"}),
    ((1, 2, 3, 4), {"size": (5, 7), "mode": "bilinear", "align_corners": True}),
    ((1, 2, 3, 4), {"scale_factor": (1.5, 2.5), "mode": "bilinear", "recompute_scale_factor": True}),
    ((1, 1, 2, 3, 2), {"size": (3, 4, 5), "mode": "trilinear"}),
]


@pytest.mark.parametrize(("shape", "options"), CASES)
def test_it_is_the_linear_map_that_torchs_jacobian_says(shape, options):
    x = Moments(torch.randn(shape, dtype=DOUBLE), torch.rand(shape, dtype=DOUBLE))
    result = F.interpolate(x, **options)
    jacobian = torch.autograd.functional.jacobian(lambda m: F.interpolate(m, **options), x.expectation).flatten(
        len(shape)
    )
    torch.testing.assert_close(result.expectation, F.interpolate(x.expectation, **options))
    torch.testing.assert_close(result.variance, jacobian.square() @ x.variance.flatten())


@pytest.mark.parametrize(
    "module", [nn.Upsample(scale_factor=2), nn.Upsample(8, mode="bilinear"), nn.UpsamplingBilinear2d(scale_factor=2)]
)
def test_modules_convert(module):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), module)
    check_twin(network, to_bayesian(network), torch.randn(2, 1, 6, 6))


def test_other_modes_are_refused():
    x = Moments(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(UnsupportedOperationError, match=r"rules for nearest, .*trilinear, got 'bicubic'; choose one"):
        F.interpolate(x, scale_factor=2, mode="bicubic")
    with pytest.raises(UnsupportedOperationError, match="got 'bilinear' with antialias=True"):
        F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
