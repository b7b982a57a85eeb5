from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.next_token import NextToken
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from tests.tiny_transformers import LENGTH, VOCABULARY, Conv1D, TinyGPT


def images(n: int = 11) -> Dataset:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(n, 2, 7, 6, dtype=torch.float64, generator=generator)
    return Dataset(inputs, torch.randint(3, (n,), generator=generator), torch.arange(n))


def convolutional(**options) -> Objective:
    torch.manual_seed(5)
    first = nn.Conv2d(2, 3, 3, **options)
    positions = first(torch.zeros(1, 2, 7, 6)).numel()
    network = nn.Sequential(first, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(positions, 3)).double()
    return Objective(network, CrossEntropy(), WeightDecay(0.02))


@pytest.mark.parametrize("batch_size", [5, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2},
        {"padding": "valid", "bias": False},
        {"padding": 1, "padding_mode": "circular"},
    ],
)
def test_convolutions_equal_the_dense_definition(ekfac_of, options, batch_size) -> None:
    objective, data = convolutional(**options), images()
    operator = EKFACOperator(objective, data, batch_size)
    torch.testing.assert_close(operator.dense(), ekfac_of(objective, data.batch()), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv1d(2, 3, 3), (2, 7)),
        (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=2, dilation=2), (2, 9)),
        (lambda: nn.Conv1d(2, 3, 4, padding="same", padding_mode="circular"), (2, 6)),
        (lambda: nn.Conv2d(2, 3, (1, 3), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), (2, 4, 6)),
        (lambda: nn.Conv3d(2, 3, 2), (2, 3, 3, 2)),
        (lambda: nn.Conv3d(1, 3, (1, 2, 2), stride=(1, 2, 1), padding=(1, 0, 1), bias=False), (1, 2, 4, 3)),
    ],
)
def test_convolutions_of_all_axes_equal_the_dense_definition(ekfac_of, layer, shape) -> None:
    torch.manual_seed(5)
    data = Dataset(torch.randn(6, *shape).double(), torch.randint(3, (6,)), torch.arange(6))
    first = layer()
    head = nn.Linear(first(torch.zeros(1, *shape)).numel(), 3)
    objective = Objective(
        nn.Sequential(first, nn.Tanh(), nn.Flatten(), head).double(), CrossEntropy(), WeightDecay(0.1)
    )
    operator = EKFACOperator(objective, data, 4)
    torch.testing.assert_close(operator.dense(), ekfac_of(objective, data.batch()), rtol=1e-9, atol=1e-12)


def test_a_transposed_layer_is_the_layer() -> None:
    """GPT-2's Conv1D against nn.Linear with the same weights, and the trace against the Gauss-Newton matrix."""
    torch.manual_seed(5)
    gpt = TinyGPT(layer=Conv1D).double()
    linear = TinyGPT(layer=nn.Linear).double()
    transposed = {name for name, value in gpt.state_dict().items() if value.shape != linear.state_dict()[name].shape}
    transposed |= {"block.projection.weight"}
    assert len(transposed) == 4
    linear.load_state_dict({name: value.T if name in transposed else value for name, value in gpt.state_dict().items()})
    data = Dataset(torch.randint(VOCABULARY, (6, LENGTH)), torch.randint(VOCABULARY, (6, LENGTH)), torch.arange(6))
    objectives = [Objective(network, NextToken(), WeightDecay(0.1), parameters="layers") for network in (gpt, linear)]
    operators = [EKFACOperator(objective, data, 4) for objective in objectives]
    mine = operators[0].dense()
    places = objectives[0].layout.unflatten(torch.arange(len(mine)))
    order = torch.cat([(places[n].T if n in transposed else places[n]).flatten() for n in places])
    torch.testing.assert_close(mine[order][:, order], operators[1].dense(), rtol=1e-8, atol=1e-11)
    expected = GaussNewtonOperator(objectives[0], data).trace()
    torch.testing.assert_close(operators[0].trace(), expected)


@pytest.mark.parametrize("selection", [["0.weight"], ["0.bias", "2.weight"], "last-layer"])
def test_parts_of_layers(make_objective, classification, ekfac_of, selection) -> None:
    objective = make_objective(selection)
    operator = EKFACOperator(objective, classification, batch_size=7)
    torch.testing.assert_close(operator.dense(), ekfac_of(objective, classification.batch()), rtol=1e-10, atol=1e-13)


def test_empirical_equals_the_dense_definition(make_objective, classification, ekfac_of) -> None:
    objective = make_objective()
    operator = EKFACOperator(objective, classification, batch_size=7, fisher="empirical")
    expected = ekfac_of(objective, classification.batch(), empirical=True)
    torch.testing.assert_close(operator.dense(), expected, rtol=1e-10, atol=1e-13)


def test_a_regulariser_that_varies_within_a_layer(ekfac_of, classification) -> None:
    """Prior scales that differ between weight and bias, so that the regulariser is no multiple of the identity."""

    def penalty(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return 0.3 * params["weight"].square().sum() + params["bias"].pow(4).sum()

    objective = Objective(nn.Linear(4, 3).double(), CrossEntropy(), penalty)
    operator = EKFACOperator(objective, classification, batch_size=7)
    torch.testing.assert_close(operator.dense(), ekfac_of(objective, classification.batch()), rtol=1e-10, atol=1e-13)


def test_one_example_is_exact_within_a_linear_layer(classification) -> None:
    """For a single example with one vector sent back, G_i G_i' has the Kronecker basis itself."""
    objective = Objective(nn.Linear(4, 2).double(), CrossEntropy())
    one = classification.select([0])
    one = replace(one, targets=one.targets.clamp(max=1))
    operator = EKFACOperator(objective, one)
    torch.testing.assert_close(operator.dense(), GaussNewtonOperator(objective, one).dense())


def test_trace_is_that_of_the_gauss_newton_matrix(make_objective, classification) -> None:
    """The diagonal is fitted exactly in an orthogonal basis, so each block's trace is right."""
    objective = make_objective()
    expected = GaussNewtonOperator(objective, classification).trace()
    torch.testing.assert_close(EKFACOperator(objective, classification).trace(), expected)


def test_sampled_tends_to_exact(make_objective, classification) -> None:
    objective = make_objective("last-layer")
    copies = torch.arange(24).repeat(400)
    repeated = Dataset(classification.inputs[copies], classification.targets[copies], torch.arange(len(copies)))
    exact = EKFACOperator(objective, classification).dense()
    sampled = EKFACOperator(objective, repeated, batch_size=4600, fisher="sampled", seed=1).dense()
    assert (sampled - exact).norm() < 0.03 * exact.norm()
    again = EKFACOperator(objective, repeated, batch_size=4600, fisher="sampled", seed=1).dense()
    torch.testing.assert_close(again, sampled, rtol=0, atol=0)


class SharedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(inputs)))))


def test_calls_of_a_shared_layer_are_positions_of_one(classification) -> None:
    """The gradient of a layer that is called twice is the sum over both calls, so the trace is still exact."""
    torch.manual_seed(6)
    objective = Objective(SharedLayer().double(), CrossEntropy(), parameters=["inner.weight", "inner.bias"])
    expected = GaussNewtonOperator(objective, classification).trace()
    torch.testing.assert_close(EKFACOperator(objective, classification).trace(), expected)


@pytest.mark.parametrize("columns", [(), (3,)])
@pytest.mark.parametrize("damping", [0.1, "by layer"])
def test_inverse_product_inverts_a_damping_constant_within_layers(
    make_objective, classification, columns, damping
) -> None:
    operator = EKFACOperator(make_objective(), classification)
    if damping == "by layer":
        damping = torch.cat([torch.full((25,), 0.1), torch.full((18,), 0.3)]).double()
    rhs = torch.randn(43, *columns, dtype=torch.float64)
    torch.testing.assert_close((operator + damping) @ operator.inverse_product(rhs, damping), rhs)


def test_inverse_product_projects_a_damping_that_varies_within_a_layer(classification) -> None:
    objective = Objective(nn.Linear(4, 3).double(), CrossEntropy())
    operator = EKFACOperator(objective, classification)
    (block,) = operator.blocks
    basis = torch.kron(block.output_basis, block.input_basis)
    damping = torch.linspace(0.1, 1, 15, dtype=torch.float64)
    where = block.positions.flatten()
    core = basis.T @ operator.dense()[where][:, where] @ basis
    projected = core + torch.diag((basis.T @ torch.diag(damping[where]) @ basis).diagonal())
    rhs = torch.randn(15, dtype=torch.float64)
    expected = torch.empty_like(rhs)
    expected[where] = basis @ torch.linalg.solve(projected, basis.T @ rhs[where])
    torch.testing.assert_close(operator.inverse_product(rhs, damping), expected)


def normalised() -> Objective:
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    return Objective(network, CrossEntropy(), WeightDecay(0.02))


def test_unsupported_modules_are_named(classification) -> None:
    with pytest.raises(ValueError, match=r"but '1.weight' belongs to LayerNorm; select other parameters"):
        EKFACOperator(normalised(), classification)


def test_grouped_convolutions_are_named() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(40, 3)).double()
    with pytest.raises(ValueError, match=r"'0.weight' belongs to Conv2d"):
        EKFACOperator(Objective(network, CrossEntropy()), images())


def test_fallback_is_the_diagonal_of_the_gauss_newton_matrix(classification) -> None:
    objective = normalised()
    operator = EKFACOperator(objective, classification, batch_size=7, allow_fallback=True)
    where = objective.layout.unflatten(torch.arange(53))
    loose = torch.cat([where["1.weight"], where["1.bias"]])
    dense = operator.dense()
    expected = GaussNewtonOperator(objective, classification).diagonal()[loose]
    torch.testing.assert_close(dense[loose][:, loose], torch.diag(expected))
    assert not dense[loose].sum(dim=1).sub(expected).abs().gt(1e-12).any()
    rhs = torch.randn(53, dtype=torch.float64)
    torch.testing.assert_close((operator + 0.1) @ operator.inverse_product(rhs, 0.1), rhs)


def test_a_layer_that_takes_no_part_is_named(classification) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.used(inputs)

    with pytest.raises(ValueError, match="layer 'idle' takes no part in the network's outputs"):
        EKFACOperator(Objective(Idle().double(), CrossEntropy()), classification)


def test_a_likelihood_that_is_not_convex_is_refused(classification) -> None:
    def saturating(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.tanh(CrossEntropy()(outputs, targets))

    objective = Objective(nn.Linear(4, 3).double(), saturating)
    with pytest.raises(ValueError, match="must be convex in the network's outputs"):
        EKFACOperator(objective, classification)


def test_a_regulariser_that_is_not_diagonal_is_refused(classification) -> None:
    objective = Objective(
        nn.Linear(4, 3).double(), CrossEntropy(), lambda params: params["weight"].diff(dim=1).square().sum()
    )
    with pytest.raises(ValueError, match="needs a regulariser with a diagonal Hessian"):
        EKFACOperator(objective, classification)


def test_losses_that_are_not_finite_are_refused(make_objective, classification) -> None:
    wild = replace(classification, inputs=classification.inputs * 1e306)
    heavy = Objective(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)).double(), lambda outputs, _: outputs[:, 0].exp())
    with pytest.raises(ValueError, match=r"\d+ of 24 losses are not finite"):
        EKFACOperator(heavy, wild)
    with pytest.raises(ValueError, match=r"what the layer 0 receives, .* exceed the range of torch\.float64; scale"):
        EKFACOperator(make_objective("all"), wild)


@pytest.mark.usefixtures("as_installed")
def test_unknown_fisher(make_objective, classification) -> None:
    with pytest.raises(ValueError, match="unknown fisher 'true'; known: exact, sampled, empirical"):
        EKFACOperator(make_objective(), classification, fisher="true")


def test_inverse_without_damping_of_a_singular_matrix_is_refused(make_objective, classification) -> None:
    operator = EKFACOperator(make_objective(decay=0.0), classification.select([0, 1]))
    with pytest.raises(ValueError, match="its inverse needs more damping"):
        operator.inverse_product(torch.ones(43, dtype=torch.float64))


def test_modules_are_left_alone(make_objective, classification) -> None:
    objective = make_objective()
    EKFACOperator(objective, classification)
    for module in objective.network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in objective.network.parameters())


class Tied(nn.Module):
    """An autoencoder that uses its encoder's weight a second time, functionally."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(torch.tanh(self.encoder(inputs)), self.encoder.weight.T)


class SequenceFirst(nn.Module):
    """Takes examples on the first axis, and puts positions there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(inputs.transpose(0, 1))).transpose(0, 1).mean(dim=1)


@pytest.mark.parametrize(("network", "shape"), [(Tied(), (6, 4)), (SequenceFirst(), (6, 6, 4))])
@pytest.mark.parametrize("fisher", ["exact", "empirical"])
def test_layers_that_are_not_what_they_receive_and_return_are_refused(network, shape, fisher) -> None:
    inputs = torch.randn(*shape, dtype=torch.float64)
    targets = inputs if len(shape) == 2 else torch.randn(6, 3, dtype=torch.float64)

    def loss(outputs, targets):
        return (outputs - targets).square().sum(dim=1)

    objective = Objective(network.double(), loss)
    with pytest.raises(ValueError, match=r"the gradient of layer '\w+' is not made of what the layer receives"):
        EKFACOperator(objective, Dataset(inputs, targets, torch.arange(6)), fisher=fisher)


class LateTied(Tied):
    """The same, whose decoder uses the encoder's weight for inputs above 5 only."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        apart = self.encoder(inputs)
        return torch.where(
            inputs[:, :1] > 5, super().forward(inputs), torch.tanh(apart).sum(dim=1, keepdim=True) + inputs
        )


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_a_weight_that_only_a_late_batch_uses_elsewhere_is_refused(fisher) -> None:
    inputs = torch.rand(6, 4, dtype=torch.float64)
    late = inputs.clone()
    late[5, 0] = 6.0

    def loss(outputs, targets):
        return (outputs - targets).square().sum(dim=1)

    objective = Objective(LateTied().double(), loss)
    assert EKFACOperator(objective, Dataset(inputs, 2 * inputs, torch.arange(6)), 2, fisher=fisher).size > 0
    with pytest.raises(ValueError, match=r"the gradient of layer '\w+' is not made of what the layer receives"):
        EKFACOperator(objective, Dataset(late, 2 * late, torch.arange(6)), 2, fisher=fisher)


def test_factors_of_many_examples_add_up_in_double_precision():
    """600 examples whose sums of squares, one after the other in float32, would lose two digits more."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(600, 2), torch.randint(3, (600,))
    data = Dataset(inputs, targets, torch.arange(600))
    objective = Objective(nn.Linear(2, 3), CrossEntropy())
    exact = EKFACOperator(objective.to(dtype=torch.float64), data.to(dtype=torch.float64), 2, fisher="empirical")
    single = EKFACOperator(objective, data, 2, fisher="empirical")
    assert single.dtype == torch.float32
    assert float((single.dense().double() - exact.dense()).norm()) < 5e-7 * float(exact.dense().norm())
