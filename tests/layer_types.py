"""Every layer type of torch.nn that has parameters or a formula of its own, as small problems with plain references."""

import torch
from torch import nn
from torch.nn import functional

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay

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


class Squared(nn.Module):
    """A function on its own, as a module."""

    def __init__(self, square):
        super().__init__()
        self.square = square

    def forward(self, inputs):
        return self.square(inputs)


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
    "TransformerEncoderLayer": lambda: After(
        nn.TransformerEncoderLayer(WIDTH, 2, 3, batch_first=True, activation="gelu")
    ),
    "TransformerDecoderLayer": lambda: After(
        nn.TransformerDecoderLayer(WIDTH, 2, 3, batch_first=True, activation="gelu"), lambda layer, x: layer(x, x)
    ),
    "TransformerEncoder": lambda: After(
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(WIDTH, 2, 3, batch_first=True, activation="gelu"), 2, enable_nested_tensor=False
        )
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


def small_problem(name):
    """An objective and five examples."""
    torch.manual_seed(3)
    network = CASES[name]().double().eval()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(N, LENGTH, WIDTH, dtype=torch.float64, generator=generator)
    if name in TOKENS:
        inputs = torch.randint(6, (N, LENGTH), generator=generator)
    data = Dataset(inputs, torch.randint(CLASSES, (N,), generator=generator), torch.arange(N))
    likelihood = LOSSES.get(name, CrossEntropy())
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
