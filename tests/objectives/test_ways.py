"""Derivatives of every layer type of torch.nn that has parameters or a formula of its own, and what is refused."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import dense_hessian, per_example_gradients, per_example_hessians
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.objectives.ways import NoDerivativeError, first_way, is_quick

N, LENGTH, WIDTH, CLASSES = 5, 4, 4, 3


class After(nn.Module):
    """A layer, what is taken of its result, and a linear layer on the mean over everything but features."""

    def __init__(self, layer, take=lambda layer, x: layer(x), width=WIDTH):
        super().__init__()
        self.layer, self.take, self.last = layer, take, nn.Linear(width, CLASSES)

    def forward(self, x):
        taken = self.take(self.layer, x)
        return self.last(taken.flatten(1, -2).mean(1) if taken.ndim > 2 else taken)


class Square(torch.autograd.Function):
    """A custom function in the style that functional transformations refuse."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(context, slope):
        (x,) = context.saved_tensors
        return 2 * x * slope


class OnceOnly(torch.autograd.Function):
    """A custom function that torch cannot differentiate twice."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, slope):
        return slope


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(WIDTH, WIDTH), function

    def forward(self, x):
        return self.function.apply(self.linear(x))


def attention(layer, x):
    return layer(x, x, x, need_weights=False)[0]


def recurrent(layer, x):
    return layer(x)[0]


def images(layer, x):
    """(B, 4, 4) as one channel of 4 x 4 pixels, features last."""
    return layer(x.unsqueeze(1)).movedim(1, -1)


parametrizations = nn.utils.parametrizations
LAYERS = {
    "Linear": lambda: After(nn.Linear(WIDTH, WIDTH)),
    "Bilinear": lambda: After(nn.Bilinear(WIDTH, WIDTH, WIDTH), lambda layer, x: layer(x, x)),
    "Conv1d": lambda: After(nn.Conv1d(LENGTH, WIDTH, 3), lambda layer, x: layer(x).movedim(1, -1)),
    "Conv2d": lambda: After(nn.Conv2d(1, WIDTH, 3), images),
    "ConvTranspose2d": lambda: After(nn.ConvTranspose2d(1, WIDTH, 2), images),
    "LayerNorm": lambda: After(nn.LayerNorm(WIDTH)),
    "RMSNorm": lambda: After(nn.RMSNorm(WIDTH)),
    "GroupNorm": lambda: After(nn.GroupNorm(2, LENGTH)),
    "BatchNorm1d": lambda: After(nn.BatchNorm1d(LENGTH)),
    "InstanceNorm1d": lambda: After(nn.InstanceNorm1d(LENGTH, affine=True)),
    "PReLU": lambda: After(nn.PReLU(LENGTH)),
    "RNN": lambda: After(nn.RNN(WIDTH, WIDTH, batch_first=True), recurrent),
    "LSTM": lambda: After(nn.LSTM(WIDTH, WIDTH, batch_first=True), recurrent),
    "GRU": lambda: After(nn.GRU(WIDTH, WIDTH, batch_first=True), recurrent),
    "LSTM of two layers, both ways": lambda: After(
        nn.LSTM(WIDTH, 2, 2, batch_first=True, bidirectional=True), recurrent
    ),
    "GRUCell": lambda: After(nn.GRUCell(WIDTH, WIDTH), lambda layer, x: layer(x[:, 0])),
    "MultiheadAttention": lambda: After(nn.MultiheadAttention(WIDTH, 2, batch_first=True), attention),
    "TransformerEncoderLayer": lambda: After(nn.TransformerEncoderLayer(WIDTH, 2, 3, batch_first=True)),
    "TransformerDecoderLayer": lambda: After(
        nn.TransformerDecoderLayer(WIDTH, 2, 3, batch_first=True), lambda layer, x: layer(x, x)
    ),
    "weight norm": lambda: After(parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))),
    "weight norm of the whole": lambda: After(parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH), dim=None)),
    "weight norm of columns": lambda: After(parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH), dim=1)),
    "spectral norm": lambda: After(parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))),
    "custom function": lambda: After(Custom(Square)),
    **{
        f"after {activation}": lambda activation=activation: After(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), getattr(nn, activation)())
        )
        for activation in ("Tanh", "GELU", "SiLU", "Mish", "Softplus", "ELU", "CELU", "SELU", "LogSigmoid", "Softsign")
    },
    **{
        f"after {pooling}": lambda pooling=pooling: After(
            nn.Sequential(nn.Conv2d(1, WIDTH, 2), getattr(nn, pooling)(2)), images
        )
        for pooling in ("AvgPool2d", "MaxPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d")
    },
}
TOKENS = {
    "Embedding": lambda: After(nn.Embedding(6, WIDTH)),
    "Embedding with padding": lambda: After(nn.Embedding(6, WIDTH, padding_idx=2)),
    "EmbeddingBag, mean": lambda: After(nn.EmbeddingBag(6, WIDTH)),
    "EmbeddingBag, sum": lambda: After(nn.EmbeddingBag(6, WIDTH, mode="sum")),
    "EmbeddingBag with padding": lambda: After(nn.EmbeddingBag(6, WIDTH, padding_idx=0)),
}
LOSSES = {
    "huber_loss": lambda outputs, targets: functional.huber_loss(
        outputs, targets.unsqueeze(1).expand_as(outputs).to(outputs), reduction="none", delta=0.7
    ).sum(1),
    "smooth_l1_loss": lambda outputs, targets: functional.smooth_l1_loss(
        outputs, targets.unsqueeze(1).expand_as(outputs).to(outputs), reduction="none"
    ).sum(1),
    "multi_margin_loss": lambda outputs, targets: functional.multi_margin_loss(
        outputs, targets, p=2, weight=torch.tensor([1.0, 2.0, 0.5]).double(), reduction="none"
    ),
    "label smoothing": lambda outputs, targets: functional.cross_entropy(
        outputs, targets, label_smoothing=0.1, reduction="none"
    ),
}
CASES = {**LAYERS, **TOKENS, **dict.fromkeys(LOSSES, lambda: After(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())))}


@pytest.fixture(params=CASES, name="case")
def small_problem(request):
    """An objective and five examples."""
    torch.manual_seed(3)
    network = CASES[request.param]().double().eval()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N, LENGTH, WIDTH, dtype=torch.float64, generator=generator)
    if request.param in TOKENS:
        inputs = torch.randint(6, (N, LENGTH), generator=generator)
    data = Dataset(inputs, torch.randint(CLASSES, (N,), generator=generator), torch.arange(N))
    likelihood = LOSSES.get(request.param, CrossEntropy())
    return Objective(network, likelihood, WeightDecay(0.05)), data


def plain_gradients(objective, batch):
    """g_i by one backward pass per example, nothing batched and nothing functional."""
    flat = objective.flat
    theta = flat.theta.clone().requires_grad_()
    losses = flat.losses(theta, batch)
    rows = [torch.autograd.grad(loss, theta, retain_graph=True, materialize_grads=True)[0] for loss in losses]
    return torch.stack(rows)


def differences(function, theta, step=1e-5):
    """Columns of a derivative by central differences, error about 1e-10."""
    units = step * torch.eye(len(theta), dtype=theta.dtype)
    return torch.stack([(function(theta + unit) - function(theta - unit)) / (2 * step) for unit in units], dim=-1)


def free(objective):
    """1 where training moves a parameter, 0 in the padding row of an embedding."""
    ones = {name: torch.ones_like(value) for name, value in objective.params.items()}
    padding = getattr(objective.network.layer, "padding_idx", None)
    if padding is not None:
        ones["layer.weight"][padding] = 0
    return objective.layout.flatten(ones)


def moved(objective, theta):
    return objective.at({**objective.params, **objective.layout.unflatten(theta)})


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_and_curvature_of_every_layer(case):
    objective, data = case
    batch, theta = data.batch(), objective.flat.theta
    gradients = plain_gradients(objective, batch)
    torch.testing.assert_close(per_example_gradients(objective, batch), gradients, rtol=1e-9, atol=1e-10)
    decay = 0.05 * torch.eye(len(theta), dtype=torch.float64)
    hessian = (
        differences(lambda at: plain_gradients(moved(objective, at), batch).mean(0), theta) * free(objective) + decay
    )
    torch.testing.assert_close(HessianOperator(objective, data, 2).dense(), hessian, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(dense_hessian(objective, batch), hessian, rtol=1e-6, atol=1e-7)
    fisher = gradients.T @ gradients / N + decay
    torch.testing.assert_close(EmpiricalFisherOperator(objective, data, 2).dense(), fisher, rtol=1e-8, atol=1e-9)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gauss_newton_of_every_layer(case):
    objective, data = case
    batch, theta = data.batch(), objective.flat.theta

    def outputs(at):
        with torch.no_grad():
            return objective.flat.outputs(at, batch.inputs)

    def slopes(values):
        at = values.detach().clone().requires_grad_()
        return torch.autograd.grad(objective.losses_of(at.view(N, CLASSES), batch).sum(), at)[0]

    jacobian = differences(lambda at: outputs(at).flatten(), theta) * free(objective)
    curvature = differences(slopes, outputs(theta).flatten())
    expected = jacobian.T @ curvature @ jacobian / N + 0.05 * torch.eye(len(theta), dtype=torch.float64)
    torch.testing.assert_close(GaussNewtonOperator(objective, data, 2).dense(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layer", ["LSTM", "custom function"])
def test_single_hessians_without_batching(layer):
    torch.manual_seed(0)
    objective = Objective(CASES[layer]().double(), CrossEntropy())
    data = Dataset(torch.randn(3, LENGTH, WIDTH).double(), torch.tensor([0, 1, 2]), torch.arange(3))
    mean = per_example_hessians(objective, data.batch()).mean(0)
    torch.testing.assert_close(mean, dense_hessian(objective, data.batch()), rtol=1e-8, atol=1e-10)


def test_the_way_that_works_is_remembered_and_said(caplog):
    objective = Objective(After(Custom(Square)).double(), CrossEntropy())
    data = Dataset(torch.randn(3, LENGTH, WIDTH).double(), torch.tensor([0, 1, 2]), torch.arange(3))
    assert is_quick(objective.network, "products")
    with caplog.at_level(logging.INFO, "bayes_influence.objectives.ways"):
        dense_hessian(objective, data.batch())
        dense_hessian(objective, data.batch())
    assert caplog.text.count("products of After by reverse mode, one direction or example at a time") == 1
    assert not is_quick(objective.network, "products")
    assert is_quick(objective.network, "gradients")


def test_what_torch_cannot_differentiate_twice_is_refused():
    objective = Objective(After(Custom(OnceOnly)).double(), CrossEntropy())
    data = Dataset(torch.randn(3, LENGTH, WIDTH).double(), torch.tensor([0, 1, 2]), torch.arange(3))
    with pytest.raises(NoDerivativeError, match=r"not symmetric.*once_differentiable"):
        dense_hessian(objective, data.batch())
    for make in (HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator):
        with pytest.raises(NoDerivativeError, match=r"not symmetric.*once_differentiable"):
            make(objective, data) @ objective.flat.theta


def test_where_every_way_fails_it_is_said_what_can_be_done():
    def lacks(what):
        def derivative():
            raise RuntimeError(f"{what} is not implemented")

        return derivative

    with pytest.raises(
        NoDerivativeError, match=r"torch has no such derivative .*its backward is not implemented.*EKFAC"
    ):
        first_way(nn.Linear(1, 1), "products", lacks("forward AD"), lacks("its backward"))


def test_a_mistake_of_the_networks_own_stays_what_it_is():
    def fails():
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match=r"^my own$"):
        first_way(nn.Linear(1, 1), "products", fails, fails)


class Fused(nn.Module):
    """Torch's attention for processors, which has no batching rule and says so in a warning."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        y = self.layer(x).unsqueeze(1)
        return functional.scaled_dot_product_attention(y, y, y, is_causal=True).squeeze(1).mean(1)


def test_a_kernel_that_torch_cannot_batch_is_written_out():
    """No warning (they are errors here), batched gradients, and the same ones as by a loop."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(N, LENGTH, WIDTH).double(), torch.arange(N) % CLASSES
    objective = Objective(Fused().double(), CrossEntropy())
    batch = Dataset(inputs, targets, torch.arange(N)).batch()
    found = per_example_gradients(objective, batch)
    assert not is_quick(objective.network, "gradients")
    params = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
    losses = objective.losses(params, batch)
    for row, loss in zip(found, losses, strict=True):
        expected = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
        torch.testing.assert_close(row, torch.cat([part.flatten() for part in expected]))
