"""The last layer as a problem of its own: its inputs become the data, everything before it a fixed feature map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from bayes_influence.data.dataset import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params, last_layer_name
from bayes_influence.torch_internals import tree_leaves


class Head(nn.Module):
    """A layer under the path that it has in its network, so that its parameters keep their names."""

    def __init__(self, path: str, layer: nn.Module) -> None:
        super().__init__()
        *parents, name = path.split(".")
        holder: nn.Module = self
        for parent in parents:
            holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        holder.add_module(name, layer)
        self.path = path

    def forward(self, features: Any) -> Any:
        """Applies the layer."""
        return self.get_submodule(self.path)(features)


def last_layer_prefix(network: nn.Module) -> str:
    """What the names of the last layer's parameters begin with; nothing where the network is that layer itself."""
    path = last_layer_name(network)
    return f"{path}." if path else ""


def features(objective: Objective, params: Params, inputs: Any) -> Any:
    """What the last layer receives at `params`: a tensor or `Moments`, leading axis as the inputs'.

    Raises:
        ValueError: If the last layer is called more or less than once.
    """
    received: list[Any] = []

    def record(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        received.append(arguments[0])

    layer = objective.network.get_submodule(last_layer_name(objective.network))
    handle = layer.register_forward_pre_hook(record)
    try:
        functional_call(objective.network, params, (inputs,))
    finally:
        handle.remove()
    if len(received) != 1:
        raise ValueError(
            f"the last layer is called {len(received)} times in one forward pass; a head needs exactly one call"
        )
    return received[0]


def stacked_features(objective: Objective, stacked: Params, inputs: Any) -> Any:
    """Features of every member of a stack: leading axes (E, n), detached."""
    with torch.no_grad():
        return vmap(lambda params: features(objective, params, inputs))(stacked)


def head_params(objective: Objective, params: Params) -> Params:
    """The last layer's part of (possibly stacked) parameters."""
    prefix = last_layer_prefix(objective.network)
    return {name: value for name, value in params.items() if name.startswith(prefix)}


def head_objective(objective: Objective) -> Objective:
    """The same objective for the last layer alone, to be used with `features` as inputs.

    The regulariser is applied to the last layer's parameters only, which leaves its gradient there unchanged for
    regularisers that are sums over parameters (weight decay and the KL are).

    Raises:
        ValueError: If the selection reaches beyond the last layer.
    """
    path = last_layer_name(objective.network)
    outside = [name for name in objective.names if not name.startswith(last_layer_prefix(objective.network))]
    if outside:
        raise ValueError(f"parameters={objective.parameters!r} reaches beyond the last layer {path!r}: {outside}")
    if not path:
        return replace(objective, parameters=objective.names)
    # A layer alone has its own buffers, not the network's.
    network, params = Head(path, objective.network.get_submodule(path)), head_params(objective, objective.params)
    return replace(objective, network=network, params=params, buffers={}, parameters=objective.names)


def head_problem(objective: Objective, batch: Batch) -> tuple[Objective, Batch]:
    """The last layer's objective where `objective` stands, and the batch of features that belongs to it.

    Raises:
        ValueError: If the network does something to the last layer's output, or the selection reaches beyond it.
    """
    head = head_objective(objective)
    with torch.no_grad():
        inputs = features(objective, objective.params, batch.inputs)
        whole = objective.outputs(objective.params, batch.inputs)
        part = head.outputs(head.params, inputs)
    for expected, got in zip(tree_leaves(whole), tree_leaves(part), strict=True):
        if expected.shape != got.shape or not torch.allclose(expected, got):
            raise ValueError("the network's output is not its last layer's output; take influence in named parameters")
    return head, replace(batch, inputs=inputs)


def is_last_layer(objective: Objective) -> bool:
    """Whether influence is taken in parameters of the last layer only."""
    prefix = last_layer_prefix(objective.network)
    return all(name.startswith(prefix) for name in objective.names)


def has_head(objective: Objective, batch: Batch) -> bool:
    """Whether the selection lies in a last layer whose output is the network's, so that the layer can stand alone."""
    if not is_last_layer(objective):
        return False
    try:
        head_problem(objective, batch)
    except ValueError:
        return False
    return True


def is_linear_layer(objective: Objective, inputs: Any) -> bool:
    """Whether the objective's network is one `nn.Linear` on vectors, its weight and bias (if any) selected in order."""
    network = objective.network
    layer = network.get_submodule(network.path) if isinstance(network, Head) else network
    prefix = f"{network.path}." if isinstance(network, Head) else ""
    return (
        type(layer) is nn.Linear
        and isinstance(inputs, torch.Tensor)
        and inputs.ndim == 2
        and objective.names in ((f"{prefix}weight",), (f"{prefix}weight", f"{prefix}bias"))
    )


def reduced_problem(objective: Objective, batch: Batch) -> tuple[Objective, Batch]:
    """The smallest problem with the same derivatives: the last layer on its features where that is all there is."""
    return head_problem(objective, batch) if is_last_layer(objective) else (objective, batch)


def member_batch(inputs: Any, batch: Batch, members: int) -> Batch:
    """A batch with a leading member axis: stacked inputs, and the shared batch's targets and weights repeated."""
    weights = None if batch.weights is None else batch.weights.expand(members, -1)
    return Batch(inputs, batch.targets.expand(members, *batch.targets.shape), weights)
