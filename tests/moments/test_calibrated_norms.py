import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bayes_influence.moments import (
    Approximation,
    Moments,
    check_twin,
    sampled_moments,
    to_bayesian,
    to_deterministic,
    variance_factors,
)
from bayes_influence.moments.calibrated_norms import CalibratedLayerNorm, CalibratedNorm, CalibratedRMSNorm

DOUBLE = torch.float64


class Sum(nn.Module):
    """The sum of a layer's outputs and of a branch that goes with them, normalised, and a layer."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        self.first, self.branch, self.norm, self.last = nn.Linear(3, 8), nn.Linear(8, 8), norm(8), nn.Linear(8, 2)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.relu(self.norm(h + self.branch(h))))


def network(norm=nn.LayerNorm):
    torch.manual_seed(0)
    made = Sum(norm).double().eval()
    with torch.no_grad():
        made.branch.weight.copy_(2 * torch.eye(8, dtype=DOUBLE))
    return made


def calibrated(twin, x, n_samples=600):
    return variance_factors(twin, x, n_samples=n_samples)


@pytest.mark.parametrize(("norm", "kind"), [(nn.LayerNorm, CalibratedLayerNorm), (nn.RMSNorm, CalibratedRMSNorm)])
def test_what_branches_share_is_in_the_factors_of_a_norms_inputs(norm, kind):
    plain = network(norm)
    twin = to_bayesian(plain, method="exact", structure="calibrated", initial_sigma=0.6)
    assert type(twin.norm) is kind
    assert torch.equal(twin.norm.variance_factor, torch.ones(8, dtype=DOUBLE))
    x = torch.randn(50, 3, dtype=DOUBLE)
    factors = calibrated(twin, x)
    # h and 2 h: 9 Var h, of which independent branches have 5; what the branch adds of its own lies between.
    assert float(factors["norm.variance_factor"].min()) > 1.1
    assert float(factors["norm.variance_factor"].max()) < 1.9
    sampled = sampled_moments(twin, x, n_samples=2000)
    without = {name: torch.ones_like(value) if name.startswith("norm") else value for name, value in factors.items()}
    with torch.no_grad():
        errors = [
            (functional_call(twin, kept, (x,)).expectation - sampled.expectation).square().sum()
            for kept in (factors, without)
        ]
    assert errors[0] < 0.5 * errors[1]


def test_it_comes_and_goes_with_the_twin():
    plain = network()
    twin = to_bayesian(plain, structure="calibrated")
    check_twin(plain, twin, torch.randn(4, 3, dtype=DOUBLE))
    back = to_deterministic(twin)
    assert type(back.norm) is nn.LayerNorm
    assert list(back.state_dict()) == list(plain.state_dict())
    assert isinstance(twin.norm, CalibratedNorm)  # which is left as it is
    for same in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert type(same.norm) is CalibratedLayerNorm
    assert type(to_bayesian(plain).norm) is nn.LayerNorm
    over_maps = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 4, 4)))
    assert type(to_bayesian(over_maps, structure="calibrated")[1]) is nn.LayerNorm


def test_a_factor_multiplies_the_variance_that_comes_in_and_nothing_of_a_tensor():
    twin = to_bayesian(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)).double(), structure="calibrated")
    factor = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=DOUBLE)
    twin[0].variance_factor.copy_(factor)
    x = Moments(torch.randn(3, 4, dtype=DOUBLE), torch.rand(3, 4, dtype=DOUBLE), Approximation("exact"))
    expected = nn.LayerNorm(4).double()(Moments(x.expectation, x.variance * factor, x.approximation))
    torch.testing.assert_close(twin[0](x).variance, expected.variance)
    torch.testing.assert_close(twin[0](x.expectation), nn.LayerNorm(4).double()(x.expectation))
    # Before any layer inputs are fixed, and there is nothing to find.
    assert torch.equal(calibrated(twin.eval(), x.expectation, 4)["0.variance_factor"], torch.ones(4, dtype=DOUBLE))


def test_with_factors_a_skip_connection_is_still_followed():
    torch.manual_seed(0)
    twin = to_bayesian(network(), method="first-order", structure="calibrated-covariance", initial_sigma=0.5)
    twin.norm.variance_factor.copy_(torch.linspace(0.5, 4.0, 8, dtype=DOUBLE))
    x = twin.branch(twin.first(torch.randn(5, 3, dtype=DOUBLE)))
    alone, together = twin.norm(x), x + twin.norm(x)
    independent = x.variance + alone.variance
    normalised = torch.func.vmap(torch.func.jacrev(network().norm))(x.expectation.detach())
    jacobian = torch.eye(8, dtype=DOUBLE) + normalised * twin.norm.variance_factor.sqrt()
    columns = x.covariance.columns
    dense = columns @ (x.covariance.variances.unsqueeze(-1) * columns.mT)
    dense = dense + torch.diag_embed(x.variance - x.covariance.shared)
    expected = (jacobian @ dense @ jacobian.mT).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(together.variance, expected)
    assert not torch.allclose(together.variance, independent, rtol=0.05)


def test_variances_that_are_not_finite_are_named_with_the_norm(monkeypatch):
    twin = to_bayesian(network(), structure="calibrated")
    with torch.no_grad():
        twin.norm.register_forward_pre_hook(lambda module, inputs: inputs[0] * torch.inf, prepend=True)
        with pytest.raises(ValueError, match=r"the input of 'norm' has variances that are not finite; start from a"):
            calibrated(twin, torch.randn(4, 3, dtype=DOUBLE), 4)
