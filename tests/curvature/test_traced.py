"""Products whose linearisation is kept, against the same operators without a trace."""

from functools import partial

import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators import batched
from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.traced import TracedProduct
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.criteria import as_losses
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay

OPERATORS = [HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator]


@pytest.fixture
def traced_at_once(monkeypatch) -> None:
    monkeypatch.setattr(batched, "TRACE_WORK", 0)


def assert_same_products(make, objective, data, columns: int) -> None:
    """In two products, for the kept values are made in the first and used in the second; in both memory layouts."""
    traced, plain = make(objective, data), make(objective, data, cache_bytes=0)
    for _ in range(2):
        vectors = torch.randn(plain.size, columns, dtype=plain.dtype)
        torch.testing.assert_close(traced @ vectors, plain @ vectors, rtol=1e-10, atol=1e-12)
    strided = torch.randn(columns, plain.size, dtype=plain.dtype).T
    torch.testing.assert_close(traced @ strided, plain @ strided, rtol=1e-10, atol=1e-12)
    assert traced.kept_bytes > 0
    assert plain.kept_bytes == 0


@pytest.mark.usefixtures("traced_at_once")
class TestTracedProducts:
    @pytest.mark.parametrize("make", OPERATORS)
    @pytest.mark.parametrize("columns", [1, 3])
    def test_of_a_network(self, make_objective, classification, make, columns) -> None:
        assert_same_products(partial(make, batch_size=12), make_objective(), classification, columns)

    def test_in_batches_of_two_sizes(self, make_objective, classification) -> None:
        assert_same_products(partial(HessianOperator, batch_size=10), make_objective(), classification, 2)

    @pytest.mark.parametrize("make", [HessianOperator, GaussNewtonOperator])
    def test_of_a_moment_propagating_network(self, bayesian_objective, classification, make) -> None:
        assert_same_products(make, bayesian_objective, classification, 2)

    def test_of_a_wide_layer(self) -> None:
        """Wide enough that the shared operand of K products is worth stretching."""
        inputs, targets = torch.randn(40, 30, dtype=torch.float64), torch.randint(3, (40,))
        network = nn.Sequential(nn.Linear(30, 20), nn.SELU(), nn.Linear(20, 3)).double()
        objective = Objective(network, CrossEntropy(), WeightDecay(0.1))
        assert_same_products(GaussNewtonOperator, objective, Dataset(inputs, targets, torch.arange(40)), 5)

    def test_of_a_convolution(self) -> None:
        inputs, targets = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.randint(3, (6,))
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3)).double()
        data = Dataset(inputs, targets, torch.arange(6))
        assert_same_products(HessianOperator, Objective(network, CrossEntropy()), data, 2)

    def test_more_vectors_than_are_taken_at_a_time(self, make_objective, classification) -> None:
        assert_same_products(HessianOperator, make_objective(), classification, 70)

    @pytest.mark.parametrize("make", [HessianOperator, GaussNewtonOperator])
    def test_nothing_is_multiplied_by_the_zeros_that_the_inputs_derivatives_are(
        self, make_objective, classification, make
    ) -> None:
        operator = make(make_objective(), classification)
        operator @ torch.randn(43, 3, dtype=torch.float64)
        (traced,) = operator._traced.values()
        for graph in (traced.primal.graph, traced.tangent.graph):
            zeros = {node for node in graph.nodes if "aten.zeros.default" in str(node.target)}
            assert not zeros

    def test_a_product_that_does_not_depend_on_the_data(self, classification) -> None:
        """A loss that is linear in the parameters has no curvature of its own."""
        objective = Objective(nn.Linear(4, 3).double(), lambda outputs, targets: outputs.sum(1), WeightDecay(0.1))
        operator = HessianOperator(objective, classification, batch_size=8)
        vectors = torch.randn(15, 3, dtype=torch.float64)
        torch.testing.assert_close(operator @ vectors, 0.1 * vectors)

    def test_values_are_kept_only_within_the_budget(self, make_objective, classification) -> None:
        objective, vector = make_objective(), torch.randn(43, dtype=torch.float64)
        everything = HessianOperator(objective, classification, batch_size=8)
        something = HessianOperator(objective, classification, batch_size=8, cache_bytes=3000)
        for _ in range(2):
            torch.testing.assert_close(everything @ vector, something @ vector)
        assert everything.kept_bytes > 3000 >= something.kept_bytes > 0

    def test_minibatches(self, make_objective, classification) -> None:
        objective, drawn = make_objective(), torch.tensor([3, 1, 20])
        operator = GaussNewtonOperator(objective, classification)
        expected = GaussNewtonOperator(objective, classification.select(drawn), cache_bytes=0)
        for _ in range(2):
            vectors = torch.randn(43, 2, dtype=torch.float64)
            torch.testing.assert_close(operator.product_of(drawn, vectors), expected @ vectors)


@pytest.mark.usefixtures("traced_at_once")
@pytest.mark.parametrize("make", [HessianOperator, GaussNewtonOperator])
def test_squared_errors_whose_targets_have_no_derivative_are_kept(make) -> None:
    """The derivative of a target is a zero that torch holds without memory."""
    inputs = torch.randn(12, 3, dtype=torch.float64)
    data = Dataset(inputs, inputs.sum(1, keepdim=True).sin(), torch.arange(12))
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    objective = Objective(network, as_losses(nn.MSELoss()), WeightDecay(0.1))
    assert_same_products(partial(make, batch_size=5), objective, data, 2)
    torch.testing.assert_close(HessianOperator(objective, data).dense(), dense_hessian(objective, data.batch()))


@pytest.mark.usefixtures("traced_at_once")
def test_a_network_that_cannot_be_traced_is_differentiated_anew(classification, caplog) -> None:
    class Branching(nn.Linear):
        """Asks what its inputs are, so that there is no one list of operations."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs if inputs[0, 0] > 0 else inputs.tanh())

    objective = Objective(Branching(4, 3).double(), CrossEntropy(), WeightDecay(0.1))
    assert len(set((classification.inputs[::6, 0] > 0).tolist())) == 2
    operator = HessianOperator(objective, classification, batch_size=6)
    with caplog.at_level("INFO"):
        dense = operator.dense()
    batches = [dense_hessian(objective, batch) for batch in classification.batches(6)]
    torch.testing.assert_close(dense, torch.stack(batches).mean(dim=0))
    assert operator.kept_bytes == 0
    assert "products are not traced" in caplog.text


@pytest.mark.usefixtures("traced_at_once")
def test_numbers_read_off_the_inputs_are_read_for_every_batch(classification) -> None:
    class Rescaled(nn.Linear):
        """Divides by the largest of its inputs."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs / inputs.abs().max().item())

    objective = Objective(Rescaled(4, 3).double(), CrossEntropy(), WeightDecay(0.1))
    operator = HessianOperator(objective, classification, batch_size=6)
    batches = [dense_hessian(objective, batch) for batch in classification.batches(6)]
    torch.testing.assert_close(operator.dense(), torch.stack(batches).mean(dim=0))


def test_little_work_is_never_traced(make_objective, classification) -> None:
    operator = HessianOperator(make_objective(), classification)
    operator.dense()
    for vector in torch.randn(10, 43, dtype=torch.float64):
        operator @ vector
    assert operator.kept_bytes == 0


def test_much_work_is_traced(make_objective, classification) -> None:
    operator = HessianOperator(make_objective(), classification)
    for vector in torch.randn(80, 43, dtype=torch.float64):
        operator @ vector
    assert operator.kept_bytes > 0


def stretched_left(theta, batch, vectors):
    """X V_k with one X for every k, in columns."""
    members = vectors.T.reshape(-1, 4, 2)
    return torch.bmm(batch.inputs.expand(len(members), *batch.inputs.shape), members).flatten(1).T


def stretched_and_viewed(theta, batch, vectors):
    members = vectors.T.reshape(-1, 4, 2)
    stack = batch.inputs.expand(len(members), *batch.inputs.shape)
    return torch.bmm(stack.view(stack.shape), members).flatten(1).T


def stretched_right(theta, batch, vectors):
    members = vectors.T.reshape(-1, 2, 4)
    return torch.bmm(members, batch.inputs.T.expand(len(members), 4, len(batch.inputs))).flatten(1).T


def stretched_right_of_columns(theta, batch, vectors):
    """The stack's rows do not lie side by side in memory."""
    members = vectors.T.reshape(-1, 4, 2).transpose(1, 2)
    return torch.bmm(members, batch.inputs.T.expand(len(members), 4, len(batch.inputs))).flatten(1).T


def stretched_as_a_row(theta, batch, vectors):
    """A row is stretched, and becomes matrices afterwards."""
    members = vectors.T.reshape(-1, 4, 2)
    stack = batch.inputs[:2].reshape(8).expand(len(members), 8).view(len(members), 2, 4)
    return torch.bmm(stack, members).flatten(1).T


def each_its_own(theta, batch, vectors):
    members = vectors.T.reshape(-1, 4, 2)
    return torch.bmm(members.transpose(1, 2), members).flatten(1).T


@pytest.mark.parametrize(
    ("product", "left_as_they_are"),
    [
        (stretched_left, 0),
        (stretched_and_viewed, 0),
        (stretched_right, 0),
        (stretched_right_of_columns, 0),
        (stretched_as_a_row, 1),
        (each_its_own, 1),
    ],
)
def test_products_with_one_shared_matrix_are_a_single_wide_one(classification, product, left_as_they_are) -> None:
    batch, theta = classification.select(range(6)).batch(), torch.zeros(8, dtype=torch.float64)
    traced = TracedProduct(product, theta, batch, torch.randn(8, 3, dtype=torch.float64))
    both = sum("bmm" in str(node.target) for part in (traced.tangent, traced.common) for node in part.graph.nodes)
    assert both == left_as_they_are
    for vectors in torch.randn(2, 8, 3, dtype=torch.float64):
        got = traced(traced.linearise(theta, batch), theta, batch, traced.prepare(theta, vectors))
        torch.testing.assert_close(got, product(theta, batch, vectors))


def widened_by_zeros(theta, batch, vectors):
    """Five times V: the zeros are what makes five of one."""
    return (torch.zeros(5, *vectors.shape, dtype=vectors.dtype) + vectors).sum(0)


def widened_by_zeros_and_never_again(theta, batch, vectors):
    return (torch.zeros(5, *vectors.shape, dtype=vectors.dtype) + vectors + theta.unsqueeze(1)).sum(0)


def widened_by_zeros_and_once_more(theta, batch, vectors):
    """Sums with what has the whole shape anyhow: here the zeros change nothing."""
    whole = batch.inputs[:5, :1].unsqueeze(2).expand(5, *vectors.shape)
    return (torch.zeros(5, *vectors.shape, dtype=vectors.dtype) + vectors + whole).sum(0)


@pytest.mark.parametrize(
    ("product", "sums"),
    [(widened_by_zeros, 1), (widened_by_zeros_and_never_again, 2), (widened_by_zeros_and_once_more, 1)],
)
def test_sums_with_zeros_are_left_out_where_they_change_no_shape(classification, product, sums) -> None:
    batch, theta = classification.select(range(6)).batch(), torch.arange(8.0, dtype=torch.float64)
    vectors = torch.randn(8, 3, dtype=torch.float64)
    traced = TracedProduct(product, theta, batch, vectors)
    graphs = (traced.primal.graph, traced.common.graph, traced.tangent.graph)
    assert sum(node.target is torch.ops.aten.add.Tensor for graph in graphs for node in graph.nodes) == sums
    got = traced(traced.linearise(theta, batch), theta, batch, traced.prepare(theta, vectors))
    torch.testing.assert_close(got, product(theta, batch, vectors))
