"""All ways of scoring give the same numbers; sizes decide between them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators.ekfac import EKFAC, EKFACOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.influence import problem as problems
from bayes_influence.influence import scoring
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.influence.scoring import ScoreBlocks, forward_products
from bayes_influence.objectives.derivatives import dense_hessian, gradient, per_example_gradients
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from tests.layer_types import Square, Squared


@pytest.fixture
def solved():
    generator = torch.Generator().manual_seed(0)
    return lambda problem, tests: torch.randn(problem.size, tests, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("way", ["outer-products", "gradients", "forward"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tests", [1, 2, 9])
def test_every_way_gives_all_products(train, solved, way, bias, tests):
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3, bias=bias)).double()
    objective = Objective(network, CrossEntropy(), WeightDecay(0.1), parameters="last-layer")
    problem = FittedProblem(objective, train, batch_size=16)
    vectors = solved(problem, tests)
    gradients = per_example_gradients(objective, train.batch())
    blocks = list(ScoreBlocks(problem, way)(vectors))
    assert [block.start for block in blocks] == [0, 16, 32]
    torch.testing.assert_close(torch.cat([block.products for block in blocks], dim=1), vectors.T @ gradients.T)
    if way == "forward":
        assert all(block.norms is None and block.total is None for block in blocks)
    else:
        torch.testing.assert_close(sum(block.total for block in blocks), gradients.sum(0))
        torch.testing.assert_close(torch.cat([block.norms for block in blocks]), gradients.norm(dim=1))


@pytest.mark.parametrize(("way", "passes"), [("outer-products", 0), ("gradients", 0), ("forward", 1)])
def test_the_gradient_of_the_objective_is_summed_up_where_gradients_are_formed(deep, train, monkeypatch, way, passes):
    asked = []
    monkeypatch.setattr(problems, "gradient", lambda *given: asked.append(1) or gradient(*given))
    scores = Influence(deep, train, damping=0.1, scoring=way, batch_size=64).on_loss(train.select([0]))
    assert len(asked) == passes
    assert scores.stationarity == pytest.approx(float(gradient(deep.to(dtype=torch.float64), train.batch()).norm()))


def test_scoring_can_begin_anywhere(deep, train, solved):
    problem = FittedProblem(deep, train, batch_size=16)
    vectors = solved(problem, 2)
    later = list(ScoreBlocks(problem, "forward")(vectors, start=16))
    torch.testing.assert_close(later[0].products, list(ScoreBlocks(problem, "forward")(vectors))[1].products)


def test_gradients_that_ekfac_has_taken_apart_are_not_looked_at_again(deep, train, solved, monkeypatch):
    deep = deep.to(dtype=torch.float64)
    problem = FittedProblem(deep, train, batch_size=16)
    seen = EKFACOperator(problem.reduced, problem.data, fisher="empirical")
    others = [
        EKFACOperator(problem.reduced, problem.data),
        EKFACOperator(problem.reduced, problem.data.select(range(40)), fisher="empirical"),
        EKFACOperator(replace(problem.reduced, regulariser_weight=2.0), problem.data, fisher="empirical"),
        HessianOperator(problem.reduced, problem.data),
        None,
    ]
    looked = []
    monkeypatch.setattr(ScoreBlocks, "_is_complete", lambda _: bool(looked.append(1)) or True)
    assert ScoreBlocks(problem, curvature=seen).scoring == "outer-products"
    assert looked == []
    for number, other in enumerate(others, start=1):
        assert ScoreBlocks(problem, curvature=other).scoring == "outer-products"
        assert len(looked) == number
    settings = {"curvature": EKFAC(fisher="empirical"), "damping": 0.1}
    Influence(deep, train, **settings).on_loss(train.select([0]))
    assert len(looked) == len(others)


class Tied(nn.Module):
    """One weight used by its layer, and once more beside it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(torch.tanh(x)) + x @ self.layer.weight


class SometimesTied(Tied):
    """The weight is used beside its layer for examples whose first number exceeds 5, and for no others."""

    def forward(self, x):
        return self.layer(torch.tanh(x)) + (x[:, :1] > 5) * (x @ self.layer.weight)


class Rows(nn.Module):
    """A layer whose rows are positions, one example's after the other's, as GPT-2's layers are called."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 3)

    def forward(self, x):
        return self.layer(x.reshape(-1, 1)).reshape(len(x), 3, 3).sum(1)


class RowsOfPositions(Rows):
    """The same, all examples' first position before their second: no rows of examples."""

    def forward(self, x):
        return self.layer(x.T.reshape(-1, 1)).reshape(3, len(x), 3).sum(0)


class Normalised(nn.Sequential):
    """A selected parameter that is not of a linear layer."""

    def __init__(self):
        super().__init__(nn.LayerNorm(3), nn.Linear(3, 3))


@pytest.mark.parametrize("tests", [1, 40])
@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 3)),
        nn.Sequential(nn.Unflatten(1, (1, 1, 3)), nn.Conv2d(1, 4, (1, 2)), nn.ELU(), nn.Flatten(), nn.Linear(8, 3)),
        nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Linear(1, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)),
    ],
    ids=["mlp", "convolution", "layer with positions"],
)
def test_outer_products_of_whole_networks(train, solved, network, tests):
    objective = Objective(network.double(), CrossEntropy(), WeightDecay(0.1))
    problem = FittedProblem(objective, train, batch_size=16)
    vectors, gradients = solved(problem, tests), per_example_gradients(objective, train.batch())
    scored = ScoreBlocks(problem)
    blocks = list(scored(vectors))
    assert scored.scoring == "outer-products"
    torch.testing.assert_close(torch.cat([block.products for block in blocks], dim=1), vectors.T @ gradients.T)
    torch.testing.assert_close(torch.cat([block.norms for block in blocks]), gradients.norm(dim=1))


def test_part_of_a_layer_has_outer_products_too(deep, train, solved):
    names = [name for name in deep.params if name.endswith("bias")]
    problem = FittedProblem(replace(deep, parameters=names), train)
    vectors, gradients = solved(problem, 2), per_example_gradients(problem.reduced, train.batch())
    (block,) = ScoreBlocks(problem, "outer-products")(vectors)
    torch.testing.assert_close(block.products, vectors.T @ gradients.T)


@pytest.mark.parametrize("network", [Tied(), RowsOfPositions(), Normalised()], ids=["tied", "rows", "normalised"])
def test_networks_whose_gradients_are_not_outer_products(train, solved, network, monkeypatch):
    problem = FittedProblem(Objective(network.double(), CrossEntropy(), WeightDecay(0.1)), train)
    with pytest.raises(ValueError, match=r"needs parameters of nn[.]Linear, ungrouped nn[.]Conv1d"):
        ScoreBlocks(problem, "outer-products")
    assert ScoreBlocks(problem).scoring == "gradients"
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 8 * problem.size * (scoring.SMALLEST_GRADIENT_BLOCK - 1))
    assert ScoreBlocks(problem).scoring == "forward"


def test_what_has_no_forward_mode_has_the_same_products(train):
    products, vectors = [], torch.linspace(-1, 1, 62, dtype=torch.float64).view(31, 2)
    for square in (torch.square, Square.apply):
        torch.manual_seed(5)
        network = nn.Sequential(nn.Linear(3, 4), Squared(square), nn.Linear(4, 3)).double()
        problem = FittedProblem(Objective(network, CrossEntropy(), WeightDecay(0.1)), train)
        products.append(forward_products(problem, train.batch(), vectors))
    torch.testing.assert_close(*products)
    torch.testing.assert_close(products[0], vectors.T @ per_example_gradients(problem.reduced, train.batch()).T)


@pytest.mark.parametrize("late", [0, 17, 39])
def test_one_example_whose_gradient_is_no_outer_product_decides_for_all(train, solved, late):
    inputs = train.inputs.clone()
    inputs[late, 0] = 6.0
    objective = Objective(SometimesTied().double(), CrossEntropy(), WeightDecay(0.1))
    alike = FittedProblem(objective, train, batch_size=8)
    assert train.inputs[:, 0].max() < 5
    assert ScoreBlocks(alike).scoring == "outer-products"
    problem = FittedProblem(objective, train.with_inputs(inputs), batch_size=8)
    scored, vectors = ScoreBlocks(problem), solved(problem, 2)
    assert scored.scoring == "gradients"
    products = torch.cat([block.products for block in scored(vectors)], dim=1)
    gradients = per_example_gradients(objective, problem.data.batch())
    torch.testing.assert_close(products, vectors.T @ gradients.T)
    with pytest.raises(ValueError, match="that their layers alone use"):
        ScoreBlocks(problem, "outer-products")


def test_forward_scores_have_no_error_bounds(deep, train, test):
    scores = Influence(deep, train, damping=0.1, scoring="forward").on_loss(test)
    assert scores.error is None
    torch.testing.assert_close(scores.values, Influence(deep, train, damping=0.1).on_loss(test).values)


@pytest.mark.parametrize("wrap", [lambda z: (z,), lambda z: {"logits": z}])
@pytest.mark.parametrize("parameters", ["last-layer", "all"])
def test_networks_that_return_a_tuple_or_a_dict_are_scored(train, wrap, parameters):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x):
            return wrap(self.head(torch.tanh(self.body(x))))

    def likelihood(outputs, targets):
        return CrossEntropy()(outputs["logits"] if isinstance(outputs, dict) else outputs[0], targets)

    objective = Objective(Wrapped().double(), likelihood, WeightDecay(0.1), parameters=parameters)
    tests = train.select(range(3))
    scores = Influence(objective, train, damping=0.5).on_loss(tests)
    matrix = dense_hessian(objective, train.batch())
    matrix = matrix + 0.5 * torch.eye(len(matrix), dtype=matrix.dtype)
    gradients = per_example_gradients(objective, train.batch())
    expected = gradients[:3] @ torch.linalg.solve(matrix, gradients.T) / len(train)
    torch.testing.assert_close(scores.removal, expected)
