import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import bayes_influence as bi
from bayes_influence.moments import Moments, UnsupportedOperationError, check_twin, sampled_moments, to_bayesian
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule

DOUBLE = torch.float64


def heads(variance=0.01):
    return [
        Moments(torch.randn(2, 3, 5, 4, dtype=DOUBLE), variance * torch.rand(2, 3, 5, 4, dtype=DOUBLE))
        for _ in range(3)
    ]


MASKS = [
    {},
    {"is_causal": True},
    {"attn_mask": torch.tensor([[True, False, True, True, True]]).expand(5, 5)},
    {"attn_mask": torch.linspace(-1, 1, 25, dtype=DOUBLE).reshape(5, 5)},
    {"scale": 0.3},
]


@pytest.mark.parametrize("options", MASKS)
def test_means_are_torchs_own_and_small_variances_those_of_samples(options, draw):
    torch.manual_seed(0)
    parts, n = heads(), 4_000
    result = F.scaled_dot_product_attention(*parts, **options)
    expected = F.scaled_dot_product_attention(*(part.expectation for part in parts), **options)
    torch.testing.assert_close(result.expectation, expected)
    drawn = [draw(part, n) for part in parts]
    with sdpa_kernel(SDPBackend.MATH):
        sampled = vmap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options))(*drawn)
    ratio = (result.variance / sampled.var(0)).mean()
    # The scores of a query share it, which the rule neglects; values of independent rows make up most of the variance.
    assert float(ratio) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("options", [{"scale": 0.3}, {"attn_mask": MASKS[3]["attn_mask"], "scale": 0.3}])
def test_values_alone_are_mixed_by_fixed_weights(options):
    """mean W m and variance W^2 s, W = softmax(c q k' + mask)."""
    query, key, value = heads()
    q, k = query.expectation, key.expectation
    weights = torch.softmax(0.3 * q @ k.mT + options.get("attn_mask", 0.0), dim=-1)
    result = F.scaled_dot_product_attention(q, k, value, **options)
    torch.testing.assert_close(result.expectation, weights @ value.expectation)
    torch.testing.assert_close(result.variance, weights.square() @ value.variance)


@pytest.mark.parametrize("random", range(3))
def test_one_random_part_against_its_jacobian(random):
    torch.manual_seed(0)
    parts = heads(1e-8)
    given = [part if index == random else part.expectation for index, part in enumerate(parts)]
    result = F.scaled_dot_product_attention(*given)

    def output(x):
        means = [part.expectation for part in parts]
        means[random] = x
        return F.scaled_dot_product_attention(*means)

    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.func.jacrev(output)(parts[random].expectation).flatten(4)
    expected = jacobian.square() @ parts[random].variance.flatten()
    if random == 2:
        torch.testing.assert_close(result.variance, expected)
    else:  # what the scores of one query share through the query, or of one key through the key, is neglected
        assert 0.2 < float((result.variance / expected).median()) < 3


def test_dropped_weights_are_spread_over_the_masks():
    torch.manual_seed(0)
    q, k, v = heads()
    kept, dropped = (F.scaled_dot_product_attention(q, k, v, dropout_p=p) for p in (0.0, 0.5))
    assert torch.equal(kept.expectation, dropped.expectation)
    assert (dropped.variance > kept.variance).all()


def test_what_has_no_rule_is_refused():
    q, k, v = heads()
    with pytest.raises(
        UnsupportedOperationError, match="attention of Moments takes a fixed mask and as many heads of k"
    ):
        F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    with pytest.raises(UnsupportedOperationError, match="compute the mask from fixed tensors"):
        F.scaled_dot_product_attention(q.expectation, k, v, attn_mask=k)


class Block(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        h = self.first(x)
        q, k, v = (
            layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Reads 5 tokens of 7, and says which of 3 classes they are."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, 8), nn.Embedding(5, 8)
        self.block, self.norm, self.head = Block(), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.block(x)).mean(1))


@pytest.mark.parametrize("structure", ["diagonal", "calibrated"])
def test_a_small_transformer_converts_trains_and_predicts(structure):
    torch.manual_seed(0)
    network = Transformer()
    tokens = torch.randint(7, (60, 5))
    data = bi.Dataset(tokens, tokens[:, 0] % 3, torch.arange(60), "first tokens")
    twin = to_bayesian(network, structure=structure)
    check_twin(network, twin, tokens[:4])
    objective = bi.Objective(twin, bi.TiltedCategorical(), bi.GaussianKL(60), 0.1)
    start = {name: value.unsqueeze(0) for name, value in objective.params.items()}
    trained = train_minibatches(objective, start, data, MinibatchSchedule(30, 60, 0.02), [0])
    assert trained.accuracies[-1] > 0.9
    one = trained.at(0)
    with torch.no_grad():
        outputs = one.network(tokens[:20])
    sampled = sampled_moments(one.network, tokens[:20], n_samples=200)
    ratio = float((outputs.variance / sampled.variance).median())
    if structure == "calibrated":
        assert ratio == pytest.approx(1, abs=0.35)
    else:
        assert 0 < ratio < 1
