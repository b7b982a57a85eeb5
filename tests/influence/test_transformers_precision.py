"""What bfloat16 and single precision leave of influence scores."""

import pytest
import torch
from scipy.stats import spearmanr

import bayes_influence as bi
from bayes_influence.curvature.operators.ekfac import EKFAC
from bayes_influence.objectives.next_token import NextToken
from tests.tiny_transformers import LENGTH, VOCABULARY, TinyGPT, TinyViT


def network(build=TinyGPT):
    """Weights that bfloat16 holds exactly."""
    torch.manual_seed(3)
    return build().to(torch.bfloat16)


def sequences(n, seed):
    tokens = torch.randint(VOCABULARY, (n, LENGTH), generator=torch.Generator().manual_seed(seed))
    return bi.Dataset(bi.Arguments(input_ids=tokens), tokens, torch.arange(n))


def images(n, seed, dtype=torch.bfloat16):
    pictures = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
    return bi.Dataset(pictures.to(dtype), torch.arange(n) % 3, torch.arange(n))


def removal(model, parameters="layers", dtype=torch.float64):
    objective = bi.Objective(model, NextToken(), bi.WeightDecay(0.1), parameters=parameters)
    influence = bi.Influence(objective, sequences(40, 0), curvature=EKFAC(fisher="empirical"), damping=0.1, dtype=dtype)
    return influence.on_loss(sequences(4, 1)).removal


def test_a_network_in_bfloat16_is_computed_in_double_precision():
    """All layers: nothing is computed in bfloat16, the scores are those of the same weights in float64."""
    torch.testing.assert_close(removal(network()), removal(network().double()), rtol=1e-12, atol=0)


def test_inputs_in_bfloat16_are_converted():
    scores = [
        bi.Influence(
            bi.Objective(model, bi.CrossEntropy(), bi.WeightDecay(0.1), parameters="all"),
            images(12, 0, dtype),
            curvature="ggn",
            damping=0.1,
        )
        .on_loss(images(2, 1, dtype))
        .removal
        for model, dtype in ((network(TinyViT), torch.bfloat16), (network(TinyViT).double(), torch.float64))
    ]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.03), (torch.float32, 1e-5)])
def test_features_of_a_last_layer_come_in_the_network_s_own_precision(dtype, error):
    """The last layer's inputs are the network's, with its rounding; what is made of them is in float64."""
    found = removal(network().to(dtype), "last-layer")
    exact = removal(network().double(), "last-layer")
    assert found.dtype == torch.float64
    assert float((found - exact).norm()) < error * float(exact.norm())
    assert float((found - exact).norm()) > 1e-9 * float(exact.norm())
    assert spearmanr(found.flatten(), exact.flatten()).statistic > 0.99


def test_single_precision_on_request():
    found, exact = removal(network(), dtype=torch.float32), removal(network())
    assert found.dtype == torch.float32
    assert float((found.double() - exact).norm()) < 1e-4 * float(exact.norm())
