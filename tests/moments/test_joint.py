import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import functional_call, jacrev, vmap

from bayes_influence.moments import Approximation, Moments, UnsupportedOperationError, sampled_moments, to_bayesian
from bayes_influence.moments.joint import own_source, own_variance
from bayes_influence.moments.moments import STRUCTURES

DOUBLE = torch.float64
STRUCTURE = "covariance"
SCALE = torch.tensor([0.5, -1.5, 2.0, 1.0], dtype=DOUBLE)
SHIFT = torch.tensor([0.1, 0.2, -0.3, 0.4], dtype=DOUBLE)


def matrix(x):
    """The covariance matrix of the entries, (n, d, d)."""
    if x.covariance is None:
        return torch.diag_embed(x.variance)
    columns = x.covariance.columns * x.covariance.scale.unsqueeze(-1)
    common = columns @ (x.covariance.variances.unsqueeze(-1) * columns.mT)
    return common + torch.diag_embed(own_variance(x))


def activation(method="first-order", seed=0, structure=STRUCTURE):
    """Four entries that covary, of five examples."""
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    twin = to_bayesian(layers, method=method, structure=structure, initial_sigma=0.5).eval()
    return twin(torch.randn(5, 3, dtype=DOUBLE))


def certain(n_outputs=4, seed=1):
    """A linear layer whose weights all but do not vary, and the same of tensors."""
    torch.manual_seed(seed)
    layer = nn.Linear(4, n_outputs).double()
    twin = to_bayesian(layer, structure=STRUCTURE, initial_sigma=1e-9)
    return lambda x: twin(x) if isinstance(x, Moments) else layer(x)


first, second = certain(), certain(seed=2)
MAPS = {
    "copies": lambda x: x + x.clone(),
    "with a copy taken away": lambda x: x - 0.5 * x.contiguous(),
    "a skip connection": lambda x: x + first(x),
    "of two branches": lambda x: first(x) + 2 * second(x),
    "around a block": lambda x: x + second(torch.tanh(first(x))),
    "from an activation": lambda x: (lambda h: h + second(torch.tanh(first(h))))(torch.tanh(x)),
    "before an activation": lambda x: x + second(torch.tanh(x)),
    "with its own activation": lambda x: x + torch.tanh(x),
    "of two activations": lambda x: torch.sigmoid(x) - torch.tanh(x),
    "of activations of one": lambda x: torch.sin(torch.tanh(x)) + torch.tanh(x) + 3 * x,
    "with factors": lambda x: SCALE * x + first(SHIFT - x) / SCALE,
    "of squares": lambda x: 0.1 * x + torch.tanh(torch.square(x)),
    "with a normalised one": lambda x: x + first(F.layer_norm(x, (4,), SCALE, SHIFT)),
    "normalised after": lambda x: F.layer_norm(x + first(x), (4,), SCALE, SHIFT, 0.1),
    "two blocks": lambda x: (lambda h: h + second(F.layer_norm(torch.tanh(h), (4,))))(x + first(F.layer_norm(x, (4,)))),
    "a softmax": lambda x: torch.softmax(first(x), -1),
    "its logarithm": lambda x: torch.log_softmax(x + first(x), -1),
    "a softmax of the negative": lambda x: F.softmin(x, dim=-1),
    "batch norm": lambda x: F.batch_norm(x, SHIFT, SCALE.square(), SCALE, SHIFT) + x,
}


@pytest.mark.parametrize("name", MAPS)
def test_to_first_order_the_covariance_is_that_of_the_linearised_map(name):
    function, x = MAPS[name], activation()
    result = function(x)
    jacobian = vmap(jacrev(lambda m: function(m.unsqueeze(0)).squeeze(0)))(x.expectation.detach())
    torch.testing.assert_close(result.expectation, function(x.expectation))
    torch.testing.assert_close(matrix(result), jacobian @ matrix(x) @ jacobian.mT)
    torch.testing.assert_close(result.variance, matrix(result).diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("name", ["a skip connection", "around a block", "with its own activation"])
def test_independent_entries_miss_what_branches_share(name):
    x = activation()
    alone = MAPS[name](Moments(x.expectation, x.variance))
    assert not torch.allclose(alone.variance, MAPS[name](x).variance, rtol=0.05)


class Residual(nn.Module):
    """A block between two layers, by addition, by a gate, or normalised first."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.up, self.down, self.head = (nn.Linear(*sizes) for sizes in ((3, 8), (8, 8), (8, 8), (8, 2)))
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        h = self.first(x)
        if self.kind == "normalised":
            return self.head(h + self.down(torch.relu(self.up(self.norm(h)))))
        h = torch.relu(h)
        branch = self.down(torch.relu(self.up(h)))
        return self.head(h * torch.tanh(branch) if self.kind == "gated" else h + branch)


@pytest.mark.parametrize("kind", ["added", "gated", "normalised"])
def test_of_whole_networks_the_variance_is_that_of_sampled_weights(kind):
    torch.manual_seed(0)
    network = Residual(kind).double().eval()
    with torch.no_grad():
        for layer in (network.up, network.down):  # the branch is then about what it meets
            layer.weight.copy_(0.8 * torch.eye(8, dtype=DOUBLE))
    x, n = 1 + 0.5 * torch.randn(30, 3, dtype=DOUBLE), 2_000
    twins = {
        name: to_bayesian(network, method="exact", structure=name, initial_sigma=0.4)
        for name in ("diagonal", STRUCTURE)
    }
    sampled = sampled_moments(twins[STRUCTURE], x, n_samples=n)
    with torch.no_grad():
        diagonal, covariant = (float((twin(x).variance / sampled.variance).mean()) for twin in twins.values())
    assert covariant == pytest.approx(1, abs=0.12)
    assert abs(diagonal - 1) > 3 * abs(covariant - 1)
    assert diagonal < 0.92


def test_what_only_one_branch_has_of_its_own_is_multiplied_as_the_branch_is():
    x = activation()
    torch.manual_seed(0)
    layer = to_bayesian(nn.Linear(4, 4).double(), structure=STRUCTURE, initial_sigma=0.5)
    branch = layer(x)
    found = torch.sub(x, branch, alpha=3)
    jacobian = torch.eye(4, dtype=DOUBLE) - 3 * layer.weight
    expected = jacobian @ matrix(x) @ jacobian.T + 9 * torch.diag_embed(own_variance(branch))
    torch.testing.assert_close(matrix(found), expected)
    torch.testing.assert_close(found.variance, expected.diagonal(dim1=-2, dim2=-1))


def test_a_product_is_that_of_two_gaussians_that_covary():
    """Against draws of the pair itself: x and 2 x - 1 share all that varies, x and tanh(x) to first order."""
    x = activation("exact")
    y = SHIFT + 0.5 * x
    found = x * y
    z = torch.randn(400_000, 5, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    draws = x.expectation + x.variance.sqrt() * z
    exact = (draws * (SHIFT + 0.5 * draws)).detach()
    torch.testing.assert_close(found.expectation, exact.mean(0), rtol=0.02, atol=0.01)
    torch.testing.assert_close(found.variance, exact.var(0), rtol=0.03, atol=0.0)
    slope = y.expectation + 0.5 * x.expectation
    off = matrix(x)[:, 0, 1] * slope[:, 0] * slope[:, 1]
    torch.testing.assert_close(matrix(found)[:, 0, 1], off)


def test_the_expected_spread_of_a_layer_norm_counts_the_covariance():
    """mean over j of E (x_j - mean x)^2, by the dense covariance."""
    x = activation("exact")
    centring = torch.eye(4, dtype=DOUBLE) - 0.25
    spread = (centring @ matrix(x) @ centring).diagonal(dim1=-2, dim2=-1).mean(-1)
    spread = spread + x.expectation.var(-1, correction=0) + 1e-5
    found = F.layer_norm(x, (4,))
    torch.testing.assert_close(found.expectation, (x.expectation @ centring) / spread.sqrt().unsqueeze(-1))


def test_own_parts_keep_their_source_while_they_are_one_activation():
    x = activation()
    assert own_source(x) is own_source(x)
    assert own_source(x.clone()).root is own_source(torch.tanh(x)).root is own_source(x)
    assert own_source(activation()).root is not own_source(x)
    y = activation()
    y += 1.0
    assert own_source(y).parent is not None
    # Nothing is noted where no covariance is followed.
    assert torch.tanh(Moments(x.expectation, x.variance)).own is None


@pytest.mark.parametrize(("dropped", "kept"), [(F.dropout, 1.0), (F.alpha_dropout, None)])
def test_what_dropout_adds_is_an_entrys_own_and_the_rest_is_shared_with_what_was_dropped(dropped, kept):
    x = F.layer_norm(activation("exact"), (4,))
    assert x.covariance.complete
    after = dropped(x, 0.25, True)
    torch.testing.assert_close(own_variance(after), after.variance - after.covariance.shared)
    assert (own_variance(after) > 0).all()
    # Cov(x, dropped x) is Var x times the mean of what an entry is multiplied by.
    y = activation("exact")
    together, alone = y + dropped(y, 0.25, True), dropped(y, 0.25, True).variance
    shared = (together.variance - y.variance - alone) / (2 * y.variance)
    torch.testing.assert_close(shared, shared[0, 0].expand(5, 4))
    if kept is not None:
        torch.testing.assert_close(shared[0, 0], torch.tensor(kept, dtype=DOUBLE))


def test_an_index_of_leading_axes_keeps_the_covariance():
    x = activation()
    torch.testing.assert_close(matrix(x[1:3]), matrix(x)[1:3])
    torch.testing.assert_close(matrix(x[2]), matrix(x)[2])
    torch.testing.assert_close(matrix(x[:, None]), matrix(x)[:, None])
    assert x[..., 0].covariance is None  # outside of a network
    assert x[torch.tensor([0, 2])].covariance is None


class Ends(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.first, self.last, self.end = nn.Linear(3, 4), nn.Linear(4, 4), end

    def forward(self, x):
        return self.end(self.last(torch.relu(self.first(x))))


@pytest.mark.parametrize(
    ("end", "named"),
    [
        (lambda x: x[:, :2], "an index that may reach the last axis"),
        (lambda x: x[..., 0], "an index that may reach the last axis"),
        (lambda x: torch.softmax(x, 0), "a softmax over another axis than the last"),
        (lambda x: x[:2] + x[:2].clone(), "a sum or product of two Moments of which one came through an index"),
        (lambda x: x + Moments(torch.ones(2, 5, 4), torch.ones(2, 5, 4)), "an operand that takes the shape of the"),
        (lambda x: F.layer_norm(x, (5, 4)), "layer_norm over several axes"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(end, named):
    twin = to_bayesian(Ends(end), structure=STRUCTURE)
    with pytest.raises(UnsupportedOperationError, match=rf"{named}.* has no rule for the covariance that structure="):
        twin(torch.randn(5, 3))


@pytest.mark.parametrize("structure", STRUCTURES[2:])
@pytest.mark.parametrize("first", [True, False])
def test_an_encoder_layer_passes_with_its_attention_as_if_independent(structure, first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, norm_first=first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = encoder, nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.encoder(x)[:, 0])

    twin = to_bayesian(Classifier().double().eval(), method="exact", structure=structure, initial_sigma=0.3)
    x = torch.randn(6, 5, 4, dtype=DOUBLE)
    with torch.no_grad():
        ratio = twin(x).variance.sum() / sampled_moments(twin, x, n_samples=500).variance.sum()
    assert float(ratio) == pytest.approx(0.9, abs=0.25)


def test_it_is_differentiable_and_the_same_under_vmap():
    torch.manual_seed(0)
    twin = to_bayesian(Residual("normalised").double(), method="exact", structure=STRUCTURE, initial_sigma=0.4)
    params = {name: value.detach() for name, value in twin.named_parameters()}
    x = torch.randn(3, 3, dtype=DOUBLE)
    rowwise = vmap(lambda row: functional_call(twin, params, (row.unsqueeze(0),)).variance[0])(x)
    torch.testing.assert_close(rowwise, functional_call(twin, params, (x,)).variance)
    direction = {name: torch.randn_like(value) for name, value in params.items()}

    def along(t):
        moved = {name: value + t * direction[name] for name, value in params.items()}
        return functional_call(twin, moved, (x,)).variance.sum()

    zero, step = torch.zeros((), dtype=DOUBLE), 1e-5
    central = (along(zero + step) - along(zero - step)) / (2 * step)
    torch.testing.assert_close(jacrev(along)(zero), central, rtol=1e-6, atol=0)


def test_without_a_following_structure_the_sum_is_that_of_independent_branches():
    x = activation(structure="diagonal")
    total = x + torch.tanh(x)
    torch.testing.assert_close(total.variance, x.variance + torch.tanh(x).variance)
    assert Approximation().covariant is False
