import pickle
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import functional_call, grad, hessian, vmap

import bayes_influence as bi
from bayes_influence.models.mlp import MLP
from bayes_influence.moments import (
    Approximation,
    CovarianceTooLargeError,
    Moments,
    UnsupportedOperationError,
    covariance,
    elementwise,
    moment_check,
    sampled_moments,
    to_bayesian,
    to_deterministic,
    variance_factors,
)
from bayes_influence.moments.covariance import covariant_linear
from bayes_influence.moments.sources import Covariance
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.schemes import SCHEMES

DOUBLE = torch.float64
STRUCTURE = "covariance"


def network(*widths, activation=nn.ReLU, structure=STRUCTURE, method="exact", sigma=0.5):
    torch.manual_seed(0)
    layers = [part for pair in pairwise(widths) for part in (activation(), nn.Linear(*pair))][1:]
    return to_bayesian(nn.Sequential(*layers).double(), method=method, structure=structure, initial_sigma=sigma).eval()


def matrix(x):
    """The covariance matrix of the entries, (n, d, d)."""
    part = x.covariance
    columns = part.columns * part.scale.unsqueeze(-1)
    common = columns @ (part.variances.unsqueeze(-1) * columns.mT)
    torch.testing.assert_close(common.diagonal(dim1=-2, dim2=-1), part.shared)
    return common + torch.diag_embed(x.variance - part.shared)


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_linear_layers_have_the_exact_covariance_of_their_outputs(layers):
    widths = [3, 4, 2, 5, 3][: layers + 1]
    twin = network(*widths, activation=nn.Identity)
    x = torch.randn(6, 3, dtype=DOUBLE)
    second = x.unsqueeze(-1) * x.unsqueeze(-2)  # E x x', which the layers carry on
    mean = x
    for layer in twin:
        if isinstance(layer, nn.Identity):
            continue
        fresh = second.diagonal(dim1=-2, dim2=-1) @ layer.weight_rho.mul(2).exp().T + layer.bias_rho.mul(2).exp()
        spread = layer.weight @ (second - mean.unsqueeze(-1) * mean.unsqueeze(-2)) @ layer.weight.T
        mean = F.linear(mean, layer.weight, layer.bias)
        expected = spread + torch.diag_embed(fresh)
        second = expected + mean.unsqueeze(-1) * mean.unsqueeze(-2)
    result = twin(x)
    torch.testing.assert_close(result.expectation, mean)
    torch.testing.assert_close(matrix(result), expected)
    torch.testing.assert_close(result.variance, expected.diagonal(dim1=-2, dim2=-1))
    # Independent entries miss the part off the diagonal of every layer but the first two.
    diagonal = to_bayesian(to_deterministic(twin), structure="diagonal").eval()
    neglecting = functional_call(diagonal, dict(twin.named_parameters()), (x,)).variance
    assert torch.allclose(neglecting, result.variance) == (layers == 2)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("method", ["exact", "gauss-hermite"])
def test_with_activations_the_variance_is_that_of_sampled_weights(activation, method):
    twin = network(4, 10, 10, 3, activation=activation, method=method)
    with torch.no_grad():
        for path in (2, 4):  # what all units have in common then adds up
            twin[path].weight.abs_()
    x, n = 1 + 0.5 * torch.randn(20, 4, dtype=DOUBLE), 1_000
    result, sampled = twin(x), sampled_moments(twin, x, n_samples=n)
    diagonal = functional_call(
        to_bayesian(to_deterministic(twin), method=method).eval(), dict(twin.named_parameters()), (x,)
    )
    ratio, neglected = (float((x.variance / sampled.variance).detach().mean()) for x in (result, diagonal))
    # Examples share the draws, so that their mean errs by at most one's sqrt(2 / n), times the excess of the tails.
    assert ratio == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    assert neglected < 0.9 * ratio


def test_activations_multiply_by_their_mean_slopes():
    x = network(3, 4, 2, activation=nn.Identity)(torch.randn(5, 3, dtype=DOUBLE))
    m, v = x.expectation, x.variance
    a = m / v.sqrt()
    slope = 0.5 * torch.erfc(-a * 0.5**0.5)
    expected = matrix(x) * slope.unsqueeze(-1) * slope.unsqueeze(-2)
    found = matrix(F.relu(x))
    torch.testing.assert_close(found[:, 0, 1], expected[:, 0, 1])
    own = elementwise(lambda z: z**3)
    slope = 3 * (m.square() + v)
    cubed = own(Moments(m, v, Approximation("gauss-hermite"), x.covariance))
    torch.testing.assert_close(matrix(cubed)[:, 0, 1], (matrix(x) * slope.unsqueeze(-1) * slope.unsqueeze(-2))[:, 0, 1])
    # To first order, the slope at the mean.
    linearised = torch.tanh(Moments(m, v, Approximation("first-order"), x.covariance))
    slope = 1 - torch.tanh(m).square()
    torch.testing.assert_close(matrix(linearised), matrix(x) * slope.unsqueeze(-1) * slope.unsqueeze(-2))


CONSTANT = torch.tensor([2.0, -3.0], dtype=DOUBLE)
AFFINE = [
    (lambda x: x + CONSTANT, 1.0),
    (lambda x: 5 - x, -1.0),
    (lambda x: x * CONSTANT, CONSTANT),
    (lambda x: CONSTANT * x, CONSTANT),
    (lambda x: x / CONSTANT, 1 / CONSTANT),
    (lambda x: x + x, 2.0),
    (lambda x: -x, -1.0),
    (lambda x: x.flatten(1), 1.0),
    (lambda x: x.clone().to(DOUBLE), 1.0),
    (lambda x: F.batch_norm(x, CONSTANT, CONSTANT.square(), -CONSTANT, eps=0.0), -CONSTANT / CONSTANT.abs()),
    (lambda x: F.dropout(x, training=False), 1.0),
]


@pytest.mark.parametrize(("function", "factor"), AFFINE)
def test_affine_operations_carry_it(function, factor):
    x = network(3, 4, 2, activation=nn.Identity)(torch.randn(5, 3, dtype=DOUBLE))
    factors = torch.as_tensor(factor, dtype=DOUBLE) * torch.ones(2, dtype=DOUBLE)
    torch.testing.assert_close(matrix(function(x)), matrix(x) * factors.unsqueeze(-1) * factors)


def test_dropped_entries_keep_the_covariance_of_what_is_left():
    x = network(3, 4, 2, activation=nn.Identity)(torch.randn(2, 3, dtype=DOUBLE))
    found = matrix(F.dropout(x, 0.25))
    torch.testing.assert_close(found[:, 0, 1], matrix(x)[:, 0, 1])
    variance = (x.variance + 0.25 * x.expectation.square()) / 0.75
    torch.testing.assert_close(found.diagonal(dim1=-2, dim2=-1), variance)
    # Alpha dropout multiplies what it keeps by a, and keeps 1 - p.
    limit = -1.0507009873554805 * 1.6732632423543772
    scale = 0.75 * (0.75 * (1 + 0.25 * limit**2)) ** -0.5
    torch.testing.assert_close(matrix(F.alpha_dropout(x, 0.25, True))[:, 0, 1], scale**2 * matrix(x)[:, 0, 1])


def test_the_square_of_covarying_entries():
    x = network(3, 4, 2, activation=nn.Identity)(torch.randn(5, 3, dtype=DOUBLE))
    m = x.expectation
    torch.testing.assert_close(matrix(x * x)[:, 0, 1], 4 * (m[:, 0] * m[:, 1] * matrix(x)[:, 0, 1]))


class Ends(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.first, self.last, self.end = nn.Linear(3, 4), nn.Linear(4, 4), end

    def forward(self, x):
        return self.end(self.last(torch.relu(self.first(x))))


@pytest.mark.parametrize(
    ("end", "named"),
    [
        (lambda x: x.mean(-1), "torch.Tensor.mean"),
        (lambda x: x.reshape(-1, 2, 2), "reshape to another shape"),
        (lambda x: x.mT, "torch.transpose"),
        (lambda x: torch.cat([x, x], -1), "torch.cat"),
        (lambda x: F.group_norm(x, 2), "torch.nn.functional.group_norm"),
        (lambda x: x * torch.ones(2, 5, 4), "Moments that take the shape of a tensor"),
    ],
)
def test_operations_without_a_rule_for_it_are_refused_inside_a_network(end, named):
    twin = to_bayesian(Ends(end), structure=STRUCTURE)
    message = rf"{named} has no rule for the covariance that structure='covariance' follows .* or hand on x.marginal"
    with pytest.raises(UnsupportedOperationError, match=message):
        twin(torch.randn(5, 3))


def test_what_comes_out_of_a_network_may_be_used_as_any_moments():
    twin = to_bayesian(Ends(nn.Identity()), structure=STRUCTURE)
    outputs = twin(torch.randn(5, 3))
    alone = Moments(outputs.expectation, outputs.variance)
    assert torch.equal(outputs.sum(-1).variance, alone.sum(-1).variance)
    assert outputs[1:3].shape == (2, 4)
    assert outputs.marginal.covariance is None
    # A single output has nothing to covary with, and a network may end with it.
    one = to_bayesian(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), structure=STRUCTURE)

    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = one

        def forward(self, x):
            return self.inner(x).squeeze(-1)

    assert Squeezed()(torch.randn(5, 3)).shape == (5,)


def test_it_travels_as_the_other_parts_do():
    x = network(3, 4, 2, activation=nn.Identity)(torch.randn(5, 3, dtype=DOUBLE)).detach()
    doubled = tree_map(lambda leaf: 2 * leaf, x)
    assert torch.equal(doubled.covariance.shared, 2 * x.covariance.shared)
    assert doubled.covariance.columns.shape == (5, 2, 4)  # every example its own, for what picks examples
    picked = tree_map(lambda leaf: leaf[[0, 3]], x)
    torch.testing.assert_close(matrix(picked), matrix(x)[[0, 3]])
    back = pickle.loads(pickle.dumps(x))
    torch.testing.assert_close(matrix(back), matrix(x))
    mapped = vmap(lambda z: F.relu(z).covariance.shared)(x)
    torch.testing.assert_close(mapped, F.relu(x).covariance.shared)
    y = Moments(x.expectation, x.variance, x.approximation, x.covariance)
    y *= 3.0
    torch.testing.assert_close(matrix(y), 9 * matrix(x))


def test_a_shared_part_above_the_variance_by_rounding_leaves_no_negative_part():
    x = Moments(torch.zeros(1, 2, dtype=DOUBLE), torch.tensor([[1.0, 1.0]], dtype=DOUBLE))
    above = torch.full((1, 2), 1 + 1e-9, dtype=DOUBLE)
    x = Moments(
        x.expectation,
        x.variance,
        x.approximation,
        Covariance(torch.ones(1, 2, 1, dtype=DOUBLE), above, above[:, :1], above),
    )
    weight = torch.tensor([[1.0, -1.0]], dtype=DOUBLE)
    result = covariant_linear(x, weight, None, torch.full_like(weight, -1e4), None, Approximation())
    assert torch.equal(result.covariance.variances[:, 1:], torch.zeros(1, 2, dtype=DOUBLE))
    assert float(result.variance) == 0.0


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
def test_gradients_and_hessians_against_central_differences(activation):
    twin = network(3, 4, 4, 2, activation=activation, structure="calibrated-covariance")
    x = torch.randn(4, 3, dtype=DOUBLE)
    factors = variance_factors(twin, x, n_samples=8)
    params = {name: value.detach() for name, value in twin.named_parameters()}
    torch.manual_seed(3)
    direction = {name: torch.randn_like(value) for name, value in params.items()}

    def along(t):
        moved = {name: value + t * direction[name] for name, value in params.items()}
        return functional_call(twin, {**moved, **factors}, (x,)).variance.sum()

    zero, step = torch.zeros((), dtype=DOUBLE), 1e-4
    first = (along(zero + step) - along(zero - step)) / (2 * step)
    second = (along(zero + step) - 2 * along(zero) + along(zero - step)) / step**2
    torch.testing.assert_close(grad(along)(zero), first, rtol=1e-5, atol=0)
    torch.testing.assert_close(hessian(along)(zero), second, rtol=1e-4, atol=0)


def test_calibrated_factors_multiply_the_covariance_too():
    twin = network(3, 4, 4, 2, structure="calibrated-covariance")
    x = torch.randn(4, 3, dtype=DOUBLE)
    with torch.no_grad():
        before = twin[:3](x)
        twin[2].variance_factor.copy_(torch.tensor([1.0, 4.0, 9.0, 16.0]))
        after = twin[:3](x)
    roots = torch.arange(1.0, 5.0, dtype=DOUBLE)
    torch.testing.assert_close(matrix(after), matrix(before) * roots.unsqueeze(-1) * roots)


def test_after_convolutions_it_starts_at_the_second_fully_connected_layer():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    twin = to_bayesian(layers.double(), method="exact", structure=STRUCTURE).eval()
    x = torch.randn(2, 1, 4, 4, dtype=DOUBLE)
    assert twin[:3](x).covariance is None
    assert twin[:4](x).covariance.columns.shape == (5, 12)
    assert twin(x).covariance.columns.shape == (2, 2, 17)
    assert [layer.path for layer in moment_check(twin, x, n_samples=4).layers] == ["0", "1", "2", "3", "4", "5"]


def test_a_covariance_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    twin = network(3, 4, 5, 2)
    x = torch.randn(10, 3, dtype=DOUBLE)
    monkeypatch.setattr(covariance, "COVARIANCE_BYTES", 10 * 2 * 9 * 8 - 1)
    message = (
        r"covariance of the 5 outputs of layer '2' has rank 4, and takes 0.0 GiB for 10 examples, more than 0.0; "
        r"take at most 8 examples at a time, or structure='calibrated' or 'diagonal'"
    )
    with pytest.raises(CovarianceTooLargeError, match=message):
        twin(x)
    assert twin(x[:8]).shape == (8, 2)
    with pytest.raises(CovarianceTooLargeError, match=r"the 5 outputs of layer '4' has rank 6"):
        network(3, 4, 2, 5)(x)
    alone = to_bayesian(nn.Linear(3, 2).double(), structure=STRUCTURE)
    with pytest.raises(CovarianceTooLargeError, match="outputs of layer 'of the network'"):
        alone(Moments(torch.zeros(100, 3, dtype=DOUBLE), torch.ones(100, 3, dtype=DOUBLE)))


@pytest.mark.slow
def test_influence_on_an_elbo_with_covariances_and_factors_is_that_of_refits_with_the_factors_held():
    iris = bi.hold_out(bi.load_table("iris"), 0.2)
    scheme = SCHEMES["bnn"].with_options(structure="calibrated-covariance", method="exact", initial_sigma=0.2)
    (fits,) = bi.fit_schemes([scheme], lambda: MLP(4, 3, width=5, depth=2), iris.train, [0], bi.Schedule(100, 0.05))
    assert fits.polished.all()
    factor = fits.at(0).buffers["4.variance_factor"]
    assert not torch.equal(factor, torch.ones_like(factor))
    rows = torch.arange(0, 120, 6)
    predicted = bi.Influence(fits.at(0), iris.train, damping=0.0).on_loss(iris.test).removal[:, rows].T
    refits = bi.Minimum().refit(fits, iris.train, iris.train.ids[rows])
    assert refits.converged.all()
    true = bi.loss_changes(refits, iris.test)[0]
    assert torch.corrcoef(torch.stack([predicted.flatten(), true.flatten()]))[0, 1] > 0.99
    assert float((predicted * true).sum() / predicted.square().sum()) == pytest.approx(1, abs=0.1)
