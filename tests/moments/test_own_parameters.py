import copy
import pickle

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import functional_call

import bayes_influence as bi
from bayes_influence.moments import (
    Moments,
    UnsupportedOperationError,
    check_twin,
    relative_sigma,
    sampled_moments,
    to_bayesian,
    to_deterministic,
)
from bayes_influence.moments.own_parameters import OwnParameters
from bayes_influence.training.priors import prior_scales
from bayes_influence.training.schemes import SCHEMES

DOUBLE = torch.float64


class Tokens(nn.Module):
    """A class token before two patches of 3, places added, a linear layer on the token's place."""

    def __init__(self):
        super().__init__()
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 3, 4))
        self.waves = nn.Parameter(torch.randn(4), requires_grad=False)
        self.patches, self.mixed, self.head = nn.Linear(3, 4), nn.Linear(12, 4), nn.Linear(4, 2)

    def forward(self, x):
        patches = self.patches(x.unflatten(1, (2, 3)))
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], 1) + self.places + self.waves
        return self.head(F.relu(self.mixed(tokens.flatten(1))))


def network(kind=Tokens, seed=0):
    torch.manual_seed(seed)
    return kind().double().eval()


def test_they_are_gaussian_and_pass_the_rules_as_activations_do():
    plain = network()
    twin = to_bayesian(plain, method="exact", initial_sigma=0.8)
    assert list(dict(twin.named_parameters()))[:5] == ["token", "places", "waves", "token_rho", "places_rho"]
    assert torch.equal(twin.token_rho.exp(), torch.full((1, 1, 4), 0.8 / 2, dtype=DOUBLE))  # fan-in: the last axis
    x = torch.randn(20, 6, dtype=DOUBLE)
    check_twin(plain, twin, x)
    with torch.no_grad():
        for name, value in twin.named_parameters():  # what is left varies by them alone, so the rules are exact
            if name.endswith("_rho") and name not in ("token_rho", "places_rho"):
                value.fill_(-20)
    sampled = sampled_moments(twin, x, n_samples=1000)
    error = (twin(x).expectation - sampled.expectation) / sampled.variance.sqrt()
    assert float(error.detach().abs().max()) < 5 / 1000**0.5
    own = twin.places_rho.detach().mul(2).exp()[0]
    own[0] += twin.token_rho.detach().mul(2).exp()[0, 0]
    expected = own.flatten() @ plain.mixed.weight.square().T
    seen = []
    twin.mixed.register_forward_hook(lambda module, inputs, output: seen.append(output.variance))
    twin(x)
    torch.testing.assert_close(seen[0], expected.expand(20, 4), rtol=1e-6, atol=1e-12)


def test_it_is_the_users_class_that_is_called_and_comes_back():
    plain = network()
    twin = to_bayesian(plain)
    assert isinstance(twin, Tokens)
    assert isinstance(twin, OwnParameters)
    assert type(twin).__name__ == "Tokens"
    assert isinstance(twin.token, nn.Parameter)  # outside of a forward pass
    x = torch.randn(5, 6, dtype=DOUBLE)
    for same in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert type(same) is type(twin)
        assert torch.equal(same(x).variance, twin(x).variance)
    back = to_deterministic(twin)
    assert type(back) is Tokens
    assert vars(back).keys() == vars(plain).keys()
    assert list(back.state_dict()) == list(plain.state_dict())
    assert torch.equal(back(x), plain(x))
    assert type(twin) is not Tokens  # which is left as it is


def test_a_frozen_one_stays_a_number_and_a_start_may_be_relative():
    twin = to_bayesian(network(), initial_sigma=relative_sigma(0.1))
    assert not hasattr(twin, "waves_rho")
    assert torch.equal(twin.token_rho.exp(), (0.1 * twin.token.abs()).clamp(1e-3, 1).detach().log().exp())


def test_parameters_at_other_values_are_those_of_the_call():
    twin = to_bayesian(network())
    x = torch.randn(5, 6, dtype=DOUBLE)
    moved = {name: value.detach() + 0.1 for name, value in twin.named_parameters()}
    before = twin(x)
    other = functional_call(twin, moved, (x,))
    twin.load_state_dict(moved)
    assert torch.equal(other.variance, twin(x).variance)
    assert not torch.equal(other.variance, before.variance)


def test_one_that_is_read_twice_may_not_meet_itself():
    class Twice(Tokens):
        def forward(self, x):
            return self.head(self.token[0] + x[:, :4] * self.token[0])

    with pytest.raises(UnsupportedOperationError, match=r"'token' is .* twice, and what comes of the two .* meets"):
        to_bayesian(network(Twice))(torch.randn(5, 6, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (lambda x, p: F.linear(x, p, None), "a linear layer or convolution as a function .* takes a fixed weight"),
        (lambda x, p: F.linear(x, torch.ones(4, 4), p[0]), "a linear layer .* takes a fixed bias"),
        (lambda x, p: F.layer_norm(x, (4,), p[0]), "layer_norm of Moments takes a fixed weight"),
        (lambda x, p: F.layer_norm(x, (4,), None, p[0]), "layer_norm of Moments takes a fixed bias"),
        (lambda x, p: F.rms_norm(x, (4,), p[0]), "rms_norm of Moments takes a fixed weight"),
        (lambda x, p: F.group_norm(x, 2, p[0]), "group_norm of Moments takes a fixed weight"),
        (lambda x, p: F.batch_norm(x, torch.zeros(4), torch.ones(4), p[0]), "batch_norm of Moments takes a fixed"),
        (lambda x, p: F.instance_norm(x, None, None, p[0]), "instance_norm of Moments takes a fixed weight"),
        (lambda x, p: torch.sort(x + p).values, "torch.sort has no rule"),
    ],
)
def test_uses_without_a_rule_are_refused(as_installed, use, named):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.head = nn.Parameter(torch.ones(4, 4)), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(use(x, self.own))

    with pytest.raises(UnsupportedOperationError, match=named):
        to_bayesian(Own())(torch.randn(4, 4))


def test_their_prior_by_fan_in_is_that_of_the_rows_of_an_embedding():
    scales = prior_scales(to_bayesian(network()), 3.0, "fan-in")
    assert scales["token"] == scales["places"] == 3 / 2
    assert scales["head.bias"] == scales["head.weight"] == 3 / 2
    layers = {f"{path}.{kind}" for path in ("patches", "mixed", "head") for kind in ("weight", "bias")}
    assert set(scales) == {"token", "places"} | layers


def test_a_network_with_a_class_token_trains_with_its_sigma():
    data = bi.Dataset(torch.randn(12, 6, dtype=DOUBLE), torch.arange(12) % 2, torch.arange(12))
    (fits,) = bi.fit_schemes([SCHEMES["bnn"]], lambda: network(), data, [0], bi.Schedule(3, 0.05))
    start = to_bayesian(network()).token_rho
    assert not torch.equal(fits.at(0).params["token_rho"], start)
    assert isinstance(fits.at(0).network(data.inputs), Moments)
