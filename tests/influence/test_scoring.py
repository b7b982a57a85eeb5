"""All ways of scoring give the same numbers; sizes decide between them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.influence import scoring
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.influence.scoring import ScoreBlocks
from bayes_influence.objectives.derivatives import per_example_gradients
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


@pytest.fixture
def solved():
    generator = torch.Generator().manual_seed(0)
    return lambda problem, tests: torch.randn(problem.size, tests, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("way", ["outer-products", "gradients", "forward"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tests", [1, 2, 9])
def test_every_way_gives_all_products(train, solved, way, bias, tests):
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3, bias=bias)).double()
    objective = Objective(network, CrossEntropy(), WeightDecay(0.1), selection="last-layer")
    problem = FittedProblem(objective, train, batch_size=16)
    vectors = solved(problem, tests)
    gradients = per_example_gradients(objective, train.batch())
    blocks = list(ScoreBlocks(problem, way)(vectors))
    assert [block.start for block in blocks] == [0, 16, 32]
    torch.testing.assert_close(torch.cat([block.products for block in blocks], dim=1), vectors.T @ gradients.T)
    if way == "forward":
        assert all(block.norms is None for block in blocks)
    else:
        torch.testing.assert_close(torch.cat([block.norms for block in blocks]), gradients.norm(dim=1))


def test_scoring_can_begin_anywhere(deep, train, solved):
    problem = FittedProblem(deep, train, batch_size=16)
    vectors = solved(problem, 2)
    later = list(ScoreBlocks(problem, "forward")(vectors, start=16))
    torch.testing.assert_close(later[0].products, list(ScoreBlocks(problem, "forward")(vectors))[1].products)


def test_sizes_decide(deep, train, monkeypatch):
    last = FittedProblem(replace(deep, selection="last-layer"), train)
    assert ScoreBlocks(last).scoring == "outer-products"
    whole = FittedProblem(deep, train)
    assert ScoreBlocks(whole).scoring == "gradients"
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 8 * whole.size * (scoring.SMALLEST_GRADIENT_BLOCK - 1))
    assert ScoreBlocks(whole).scoring == "forward"


def test_forward_scores_have_no_error_bounds(deep, train, test):
    scores = Influence(deep, train, damping=0.1, scoring="forward").on_loss(test)
    assert scores.error is None
    torch.testing.assert_close(scores.values, Influence(deep, train, damping=0.1).on_loss(test).values)


def test_outer_products_need_a_linear_layer(deep, train):
    with pytest.raises(ValueError, match="scoring='outer-products' needs influence in a linear last layer"):
        ScoreBlocks(FittedProblem(deep, train), "outer-products")
