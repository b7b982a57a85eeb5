"""What the scores are held against, in float64 and without any of the libraries that are compared."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.nn.functional import cross_entropy

from benchmarks.peers.problem import Problem

BATCH_SIZE = 1000
"""Examples that are differentiated at a time."""


def last_layer_removal(problem: Problem) -> Float[Tensor, "t n"]:
    """+1/n g_t' (H + delta I)^-1 g_i in a linear last layer with a bias, from its closed form.

    H = (1/n) sum_i (diag p_i - p_i p_i') (x) a_i a_i' + lambda I, g_i = (p_i - y_i) (x) a_i, a_i with a constant 1.
    """
    network = problem.network
    body = nn.Sequential(*list(network)[:-1])
    logits, features = _double(network, problem.inputs), _with_one(_double(body, problem.inputs))
    p = logits.softmax(dim=1)
    output_hessians = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    size = p.shape[1] * features.shape[1]
    hessian = torch.einsum("nij,na,nb->iajb", output_hessians, features, features).reshape(size, size) / len(p)
    damped = hessian + (problem.decay + problem.damping) * torch.eye(size, dtype=torch.float64)
    examples = _layer_gradients(logits, problem.targets, features)
    test_features = _with_one(_double(body, problem.test_inputs))
    tests = _layer_gradients(_double(network, problem.test_inputs), problem.test_targets, test_features)
    return tests @ torch.linalg.solve(damped, examples.T) / len(p)


def relative_residuals(problem: Problem, solved: Float[Tensor, "t P"]) -> Float[Tensor, " t"]:
    """||g_t - (C + delta I) x_t|| / ||g_t|| for every row of `solved`, in the Hessian or the Gauss-Newton matrix."""
    theta = _theta(problem)
    rhs = test_gradients(problem)
    columns = solved.double()
    product = (problem.damping + problem.decay) * columns
    for rows in torch.arange(len(problem.targets)).split(BATCH_SIZE):
        share = len(rows) / len(problem.targets)
        inputs, targets = problem.inputs[rows].double(), problem.targets[rows]
        product = product + share * _product(problem, theta, inputs, targets, columns)
    return (rhs - product).norm(dim=1) / rhs.norm(dim=1)


def test_gradients(problem: Problem) -> Float[Tensor, "t P"]:
    """g_t."""
    theta = _theta(problem)

    def loss(at: Tensor, inputs: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(_outputs(problem, at, inputs.unsqueeze(0)), target.unsqueeze(0))

    return vmap(grad(loss), in_dims=(None, 0, 0))(theta, problem.test_inputs.double(), problem.test_targets)


def _product(problem: Problem, theta: Tensor, inputs: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    if problem.curvature == "hessian":

        def slope(at: Tensor) -> Tensor:
            return grad(lambda where: cross_entropy(_outputs(problem, where, inputs), targets))(at)

        return vmap(lambda row: jvp(slope, (theta,), (row,))[1])(rows)
    linearised = vjp(lambda at: _outputs(problem, at, inputs), theta)
    outputs, back = linearised[0], linearised[1]
    p = outputs.softmax(dim=1)

    def gauss_newton(row: Tensor) -> Tensor:
        tangent = jvp(lambda at: _outputs(problem, at, inputs), (theta,), (row,))[1]
        return back(p * (tangent - (p * tangent).sum(dim=1, keepdim=True)) / len(targets))[0]

    return vmap(gauss_newton)(rows)


def _theta(problem: Problem) -> Tensor:
    params = dict(problem.network.named_parameters())
    return torch.cat([params[name].detach().double().flatten() for name in problem.names])


def _outputs(problem: Problem, theta: Tensor, inputs: Tensor) -> Tensor:
    params = {name: value.detach().double() for name, value in problem.network.named_parameters()}
    pieces = theta.split([params[name].numel() for name in problem.names])
    chosen = {name: piece.view_as(params[name]) for name, piece in zip(problem.names, pieces, strict=True)}
    return functional_call(problem.network, {**params, **chosen}, (inputs,))


def _double(module: nn.Module, inputs: Tensor) -> Tensor:
    params = {name: value.detach().double() for name, value in module.named_parameters()}
    return functional_call(module, params, (inputs.double(),))


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def _layer_gradients(logits: Tensor, targets: Tensor, features: Tensor) -> Tensor:
    errors = logits.softmax(dim=1) - nn.functional.one_hot(targets, logits.shape[1])
    return (errors.unsqueeze(2) * features.unsqueeze(1)).flatten(1)
