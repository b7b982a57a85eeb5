"""The one reduction: the last layer on its inputs stands for the whole network wherever that is the same problem.

Where the selected parameters lie in the layer that is called last, where the layer's output is the network's, and where
what the layer receives does not depend on them, all derivatives in them are those of a much smaller problem: the layer
alone, with what it receives as data. Whether that is so is seen in the network's structure and in every batch that
passes through to become features, for every member; it is never concluded from some of the examples. Where it is not
so, the network stays whole, and the reduction says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.objectives.closeness import close
from bayes_influence.objectives.company import check_targets, examine, own_params
from bayes_influence.objectives.head import Head, layer_path
from bayes_influence.objectives.hidden import ByNameAlone, KeptState
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.other_company import Passed, forms
from bayes_influence.objectives.parameters import Params, owners_of_parameters
from bayes_influence.objectives.two_companies import is_compared
from bayes_influence.torch_internals import tree_leaves, tree_map


class _StaysWholeError(Exception):
    """The network cannot be reduced; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """Where derivatives in the selected parameters are taken, for every member of a stack.

    Attributes:
        members: The whole networks, "last-layer" resolved to the layer that is called last.
        train: The training examples as they came.
        problem: What is differentiated: the last layers, or the whole networks again.
        features: What the last layers receive of the training examples, leading axes (E, n); None for whole networks.
        reason: Why the last layer stands for the network, or why not.
    """

    members: Members
    train: Dataset
    problem: Members
    features: Any | None
    reason: str

    @property
    def is_head(self) -> bool:
        """Whether the last layer stands for the network."""
        return self.features is not None

    def examples(self, index: int = 0) -> Dataset:
        """The training examples as one member's problem takes them."""
        if self.features is None:
            return self.train
        return self.train.with_inputs(tree_map(lambda leaf: leaf[index], self.features))

    def batch(self) -> tuple[Batch, bool]:
        """All training examples as the stacked problem takes them, and whether members have examples of their own.

        A single member shares, so that its features are not copied per refit.
        """
        whole = self.train.batch()
        if self.features is None:
            return self.members.objective.fitting(whole), False
        if len(self.members) == 1:
            return replace(whole, inputs=tree_map(lambda leaf: leaf[0], self.features)), False
        shared = tree_map(lambda leaf: leaf.expand(len(self.members), *leaf.shape), replace(whole, inputs=()))
        return replace(shared, inputs=self.features), True

    def features_of(self, data: Dataset) -> Any | None:
        """What the last layers receive of other examples, leading axes (E, n).

        None where these examples do not pass as the training examples did: the whole network then has to be asked.

        Raises:
            TypeError, ValueError: If these are no data set, their targets do not fit the likelihood, or as `reduce`.
        """
        check_dataset(data, "examples")
        check_targets(self.members.objective, data)
        if self.features is not None:
            try:
                return _features(self.members, layer_path(self.problem.objective.network), data)
            except _StaysWholeError:
                pass
        _examine_whole(self.members, data)
        return None


def reduce(trained: Members | Objective, train: Dataset, *, alone: bool = True) -> Reduction:
    """Passes all training examples through every member, and reduces to the last layer where that is right.

    Checked on the way: that losses are finite, one per example, and the same whatever the other examples of a batch
    are.

    Args:
        trained: Networks at their fitted parameters.
        train: The n training examples of their mean.
        alone: Whether every example is evaluated alone, too, where the network stays whole; otherwise only where that
            is cheaper than the comparison of `TwoCompanies`, which the caller then makes.

    Raises:
        TypeError: If the targets are of another kind than the likelihood's.
        ValueError: If they do not fit it, a loss is not finite, or depends on other examples of its batch.
    """
    check_dataset(train, "the training examples")
    members = Members.of(trained)
    objective = members.objective
    with objective.exclusive() as network:
        kept = KeptState(network)
        try:
            few = objective.fitting(train.select(range(min(2, len(train)))).batch())
            objective = objective.resolved(few.inputs)
        finally:
            kept.restore()
    check_targets(objective, train)
    members = replace(members, objective=objective)
    try:
        path = _candidate(objective)
        features = _features(members, path, train)
    except _StaysWholeError as error:
        _examine_whole(members, train, every=alone or not is_compared(objective, train))
        return Reduction(members, train, members, None, str(error))
    reason = f"the selected parameters are those of {path or 'the network'!r}, whose output is the network's"
    return Reduction(members, train, _heads(members, path), features, reason)


def is_linear_layer(objective: Objective, inputs: Any, leading: int = 1) -> bool:
    """Whether the network is one plain `nn.Linear` on vectors, influence taken in its weight, with or without its bias.

    A layer with hooks, a parametrisation or a `forward` of its own is not plain.

    Args:
        objective: A reduced one, or any other.
        inputs: What its network takes.
        leading: Axes before that of the features.
    """
    network = objective.network
    path = layer_path(network)
    layer = network.get_submodule(path)
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    weight, bias = f"{path}.weight".lstrip("."), f"{path}.bias".lstrip(".")
    return (
        type(layer) is nn.Linear
        and not any(hooks)
        and "forward" not in vars(layer)
        and isinstance(inputs, Tensor)
        and inputs.ndim == leading + 1
        and objective.names in ((weight,), (weight, bias))
    )


def _candidate(objective: Objective) -> str:
    """Path of the one layer that holds all selected parameters."""
    paths = {name.rpartition(".")[0] for name in objective.names}
    if len(paths) > 1:
        raise _StaysWholeError(f"the selected parameters are of several layers: {', '.join(sorted(paths))}")
    return paths.pop()


def _heads(members: Members, path: str) -> Members:
    """Every member's last layer, with the parameters that the regulariser needs beside it."""
    objective = members.objective
    own = [name for name in objective.params if name.rpartition(".")[0] == path]
    separable = getattr(objective.regulariser, "separable", False)
    kept = own if separable else list(objective.params)
    params = {name: members.params[name] for name in kept}
    buffers = {name: value for name, value in members.buffers.items() if name.rpartition(".")[0] == path}
    rest = {name: value[0] for name, value in params.items() if name not in own}
    network = Head(path, objective.network.get_submodule(path), rest) if path else objective.network
    head = replace(
        objective,
        network=network,
        params={name: value[0] for name, value in params.items()},
        buffers={name: value[0] for name, value in buffers.items()},
        parameters=objective.names,
    )
    return Members(objective=head, params=params, buffers=buffers, labels=members.labels, seeds=members.seeds)


def _features(members: Members, path: str, data: Dataset) -> Any:
    """What every member's last layer receives, leading axes (E, n), everything checked that passes."""
    each = []
    for one in members:
        received = _Received(path, len(data))
        examine(one, data, partial(_watched, one, path), received.take, partial(_check_rows, path), every=False)
        each.append(received.features)
    return tree_map(lambda *leaves: torch.stack(leaves), *each) if len(each) > 1 else tree_map(_first_axis, each[0])


class _Received:
    """What a layer receives of all examples, written into one tensor as the parts pass.

    Kept apart, the parts' small tensors would lie between the large ones that come and go, and the process would grow
    by a megabyte with every part.
    """

    def __init__(self, path: str, examples: int) -> None:
        self.path, self.examples, self.count = path, examples, 0
        self.features: Any = None

    def take(self, whole: Passed) -> None:
        if self.count == 0:
            self.features = tree_map(lambda leaf: leaf.new_empty((self.examples, *leaf.shape[1:])), whole.features)
        if forms(self.features) != forms(whole.features):
            raise _StaysWholeError(
                f"what {self.path or 'the network'!r} receives varies in shape or type from batch to batch"
            )
        rows = slice(self.count, self.count + len(tree_leaves(whole.features)[0]))
        for kept, leaf in zip(tree_leaves(self.features), tree_leaves(whole.features), strict=True):
            kept[rows] = leaf.detach()
        self.count = rows.stop


def _examine_whole(members: Members, data: Dataset, *, every: bool = True) -> None:
    """Passes the examples through every member, everything checked that passes."""
    for one in members:
        params = own_params(one)

        def call(inputs: Any, watch: ByNameAlone, one: Objective = one, params: Params = params) -> Passed:
            with watch:
                return Passed(one.outputs(params, inputs))

        examine(one, data, call, lambda _: None, every=every)


def _first_axis(leaf: Tensor) -> Tensor:
    return leaf.unsqueeze(0)


def _watched(objective: Objective, path: str, inputs: Any, watch: ByNameAlone) -> Passed:
    """What the layer receives, and what the network returns, in one forward pass that has to end with that layer.

    Raises:
        _StaysWholeError: If the layer alone is another problem than the network.
    """
    calls: list[str] = []
    received: list[tuple[Any, Any]] = []
    returned: list[Any] = []
    versions: list[int] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        received.append((args, kwargs))
        versions.extend(_versions(args))

    def after(_: nn.Module, args: Any, output: Any) -> None:
        returned.append(output)
        versions.extend(_versions(output))

    named = path or "the network"
    with objective.exclusive() as network:
        handles = [
            owner.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
            for name, owner in owners_of_parameters(network).items()
        ]
        layer = network.get_submodule(path)
        # First of all hooks, since the layer on its own calls the others itself.
        handles.append(layer.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
        handles.append(layer.register_forward_hook(after))
        try:
            state = {
                name: value.detach().requires_grad_(name in objective.names and value.is_floating_point())
                for name, value in objective.params.items()
            }
            with torch.enable_grad(), watch:
                outputs = objective.outputs(state, inputs)
        finally:
            for handle in handles:
                handle.remove()
    if len(received) != 1:
        raise _StaysWholeError(f"{named!r} is called {len(received)} times in one forward pass")
    (args, kwargs) = received[0]
    if calls[-1] != path:
        raise _StaysWholeError(f"{named!r} is not the layer that is called last: that is {calls[-1]!r}")
    if outputs is not returned[0]:
        raise _StaysWholeError(f"the network does something to the output of {named!r}")
    if _versions((args, outputs)) != versions:
        raise _StaysWholeError(f"the network writes into what {named!r} received or returned, in place")
    if len(args) != 1 or kwargs:
        raise _StaysWholeError(f"{named!r} takes {len(args)} arguments and the keywords {sorted(kwargs)}")
    leaves, examples = tree_leaves(args[0]), len(tree_leaves(inputs)[0])
    if not all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == examples for leaf in leaves):
        raise _StaysWholeError(f"what {named!r} receives does not have the examples on its first axis")
    if any(leaf.requires_grad for leaf in leaves):
        raise _StaysWholeError(f"what {named!r} receives depends on its own parameters, which are used before it, too")
    return Passed(outputs, args[0])


def _versions(values: Any) -> list[int]:
    """How often each tensor was written into."""
    return [leaf._version for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _check_rows(path: str, features: Any, again: Any) -> None:
    """Some examples' features have to be the same in other company."""
    for one, other in zip(tree_leaves(features), tree_leaves(again), strict=True):
        if one.is_floating_point() and not close(one, other):
            raise _StaysWholeError(f"what {path or 'the network'!r} receives of an example depends on the others")
