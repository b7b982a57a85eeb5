import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from bayes_influence.moments import (
    Moments,
    UnsupportedModuleError,
    UnsupportedOperationError,
    check_twin,
    to_bayesian,
    to_deterministic,
    variance_factors,
)

DOUBLE = torch.float64
TOKENS = torch.tensor([[0, 3, 3], [1, 0, 2]])


def test_moments_are_those_of_drawn_rows(draw, assert_match):
    layer = nn.Embedding(4, 3, dtype=DOUBLE)
    twin = to_bayesian(layer, initial_sigma=0.5)
    result = twin(TOKENS)
    assert result.shape == (2, 3, 3)
    rows = draw(Moments(layer.weight, twin.weight_rho.mul(2).exp()), 20_000)
    assert_match(result, vmap(lambda weight: functional_call(layer, {"weight": weight}, (TOKENS,)))(rows).detach())


def test_parameters_and_the_way_back():
    layer = nn.Embedding(4, 3)
    twin = to_bayesian(layer)
    assert [name for name, _ in twin.named_parameters()] == ["weight", "weight_rho"]
    back = to_deterministic(twin)
    assert type(back) is nn.Embedding
    assert torch.equal(back(TOKENS), layer(TOKENS))
    assert (back.num_embeddings, back.embedding_dim) == (4, 3)
    check_twin(layer, twin, TOKENS)
    assert repr(twin).startswith("BayesianEmbedding(4, 3, Approximation(")


def test_it_needs_no_factors():
    network = nn.Sequential(nn.Embedding(4, 3), nn.Flatten(), nn.Linear(9, 2)).double()
    twin = to_bayesian(network, structure="calibrated").eval()
    assert set(variance_factors(twin, TOKENS, n_samples=4)) == {"2.variance_factor"}


@pytest.mark.parametrize("options", [{"padding_idx": 0}, {"max_norm": 1.0}, {"sparse": True}])
def test_rows_that_are_no_plain_parameters_are_refused(options):
    with pytest.raises(
        UnsupportedModuleError, match="Embedding has a padding_idx, a max_norm or sparse gradients; build"
    ):
        to_bayesian(nn.Embedding(4, 3, **options))


def test_random_tokens_are_refused():
    twin = to_bayesian(nn.Sequential(nn.Linear(3, 3), nn.Embedding(4, 3)))
    with pytest.raises(UnsupportedOperationError, match="layer '1' takes tokens, whole numbers, got Moments"):
        twin(torch.randn(2, 3))
