"""One flat list of tensor operations for the gradients of all members: what the ensemble trainer runs at every step.

`vmap(grad_and_value(objective))` costs milliseconds of Python at each call, more than the arithmetic of a small
network. Traced once with `make_fx` it is a plain list of tensor operations. Two rewrites then make that list fast
without changing what it computes:

- *examples last*: matrix products and softmaxes over a handful of units run several times faster when the long axis
  (the examples) is contiguous, so products are taken transposed and softmaxes are spelled out elementwise;
- *no-ops* (views to the same shape, powers and multiples of one) are dropped.

A list that is compiled gets two more:

- *classes in place*: the entry of one class among a few is found by comparing, not by an index, and so is the place of
  its gradient; compiled, an index is followed one example at a time. 2050 refits of a last layer on 149 examples take
  two thirds of the time by that (5 units: 6.9 for 10.1 ms a step, 50 units: 35 for 53);
- *the tilt goes on*: that of a Bayesian network's bound is sought from where the call before found it, in two steps
  that are written out, see `tilt_in_line`. What is found does not depend on the start (up to rounding).

Floor of a step, per member, n examples, widths w_0 ... w_d: 6 n sum w_k w_{k+1} multiplications and additions (forward,
and two products backward) and about 10 n sum w_k elementwise operations; for small networks what remains above it is
the fixed cost of some hundred tensor operations, shared by all members.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx import GraphModule, Node

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.tilt import CLASSES_IN_LINE, SOLVE_TILT, tilt_in_line
from bayes_influence.objectives.ways import first_way
from bayes_influence.torch_internals import (
    FakeTensorMode,
    TracingContext,
    make_fx,
    tracing_in,
    tree_flatten,
    tree_leaves,
    tree_map,
    tree_unflatten,
)
from bayes_influence.training.linear_layers import are_linear, linear_gradients

logger = logging.getLogger(__name__)

aten = torch.ops.aten

COMPILE_FROM_STEPS, COMPILE_FROM_WORK = 20_000, 5_000_000_000
"""Steps from which compiling pays, and steps times elements of the largest tensor: it takes 10 to 40 seconds and then
makes small steps two to three times faster. With large tensors it saves some 3 to 10 ns a step and element."""

FEW_CLASSES = 32
"""Classes up to which the entry of one is found by comparing all."""


@dataclass(frozen=True)
class TracedStep:
    """Gradients and objectives of all members as one list of tensor operations.

    Attributes:
        run: (stacked params, batch, data weights (E, n), regulariser weights (E,)) -> (stacked gradients, J (E,)).
        largest: Elements of the largest tensor that a step touches; what decides how many threads pay.
    """

    run: Callable[[Params, Batch, Tensor, Tensor], tuple[Params, Tensor]]
    largest: int

    def __call__(
        self, params: Params, batch: Batch, weights: Tensor, regulariser_weights: Tensor
    ) -> tuple[Params, Tensor]:
        """Runs the step on arguments of exactly the shapes that it was traced with."""
        return self.run(params, batch, weights, regulariser_weights)


def _bmm_examples_last(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(right.mT, left.mT).mT


def _log_softmax(values: Tensor, dim: int, half_to_float: bool) -> Tensor:
    shifted = values - values.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _log_softmax_backward(gradient: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return gradient - output.exp() * gradient.sum(dim, keepdim=True)


def _softmax(values: Tensor, dim: int, half_to_float: bool) -> Tensor:
    exponentials = (values - values.amax(dim, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim, keepdim=True)


def _softmax_backward(gradient: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    weighted = gradient * output
    return weighted - output * weighted.sum(dim, keepdim=True)


def _places(classes: int, dim: int, index: Tensor) -> Tensor:
    """Where along an axis the class is that an index of one column has."""
    shape = [1] * index.ndim
    shape[dim] = classes
    return torch.arange(classes, device=index.device).reshape(shape) == index


def _gather_one(values: Tensor, dim: int, index: Tensor) -> Tensor:
    return torch.where(_places(values.shape[dim], dim, index), values, 0).sum(dim, keepdim=True)


def _scatter_one(zeros: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return torch.where(_places(zeros.shape[dim], dim, index), source, 0)


_ZEROS = (aten.new_zeros.default, aten.zeros.default, aten.zeros_like.default)

_ONE_OF_FEW: dict[Any, Callable[..., Tensor]] = {
    aten.gather.default: _gather_one,
    aten.scatter_add.default: _scatter_one,
}


_EXAMPLES_LAST: dict[Any, Callable[..., Tensor]] = {
    # Transposed products have other strides than those that were traced.
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.bmm.default: _bmm_examples_last,
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten._softmax.default: _softmax,
    aten._softmax_backward_data.default: _softmax_backward,
}


def _shape(node: Node) -> torch.Size:
    return node.meta["val"].shape


def _is_no_op(node: Node) -> bool:
    """Whether a node returns its first argument unchanged."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return False
    if node.target in (aten.expand.default, aten.view.default, aten._unsafe_view.default):
        return _shape(node) == _shape(node.args[0])
    if node.target is aten.permute.default:
        return list(node.args[1]) == list(range(len(node.args[1])))  # type: ignore[arg-type]
    return node.target in (aten.pow.Tensor_Scalar, aten.mul.Scalar) and node.args[1] in (1, 1.0)


def _takes_one_of_few(node: Node) -> bool:
    """Whether a gather or a scatter into zeros concerns one entry along an axis of a few."""
    if node.target not in _ONE_OF_FEW or len(node.args) > 4 or node.kwargs:
        return False
    into, dim, index = node.args[:3]
    if node.target is aten.scatter_add.default and into.target not in _ZEROS:  # type: ignore[operator,union-attr]
        return False
    whole, taken = list(_shape(into)), list(_shape(index))  # type: ignore[arg-type]
    classes, whole[dim] = whole[dim], 1  # type: ignore[index]
    return taken == whole and classes <= FEW_CLASSES


def _rewrite(traced: GraphModule) -> GraphModule:
    for node in list(traced.graph.nodes):
        if _is_no_op(node):
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
        elif node.op == "call_function" and node.target in _EXAMPLES_LAST:
            node.target = _EXAMPLES_LAST[node.target]
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _for_compiling(traced: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """The list to compile, and the tilts that it takes behind its other arguments and returns behind its results."""
    graph, starts = traced.graph, []
    output = graph.output_node()
    for node in list(graph.nodes):
        if node.op == "call_function" and _takes_one_of_few(node):
            node.target = _ONE_OF_FEW[node.target]
        elif node.target is SOLVE_TILT and _shape(node.args[0])[node.args[2]] <= CLASSES_IN_LINE:
            like, shape = node.meta["val"], _shape(node)
            starts.append(torch.full(shape, 1 / shape[node.args[2]], dtype=like.dtype, device=like.device))
            with graph.inserting_after(graph.find_nodes(op="placeholder")[-1]):
                start = graph.placeholder(f"tilt_{len(starts)}")
            node.target, node.args = tilt_in_line, (*node.args, start)
            output.args = ((*output.args[0], node),)  # type: ignore[misc]
    traced.recompile()
    return traced, starts


def trace_members(
    objective: Objective,
    params: Params,
    batch: Batch,
    data_weights: Tensor,
    regulariser_weights: Tensor,
    *,
    held: Params | None = None,
    own_data: bool = False,
    steps: int = 1,
) -> TracedStep:
    """Traces the gradient and value of J for every member at once.

    Args:
        objective: What is minimised; its `value` is called once, under `vmap` and `grad`.
        params: Stacked parameters, (E, ...) each.
        held: Stacked parameters and buffers that have no gradient; constants of the step.
        batch: Shared by all members, or with a leading member axis where `own_data`.
        data_weights: (E, n).
        regulariser_weights: (E,).
        own_data: Whether each member has its own batch; of linear layers several that follow one another may share one,
            see `linear_gradients`.
        steps: How often the step will run; from `COMPILE_FROM_STEPS` or `COMPILE_FROM_WORK` on it is compiled where
            there is a compiler.

    Returns:
        The traced step; it expects arguments of exactly these shapes. Where torch cannot batch the network, not even in
        plain formulas, members take turns, untraced.
    """

    def value(member: Params, fixed: Params, data: Batch, weights: Tensor, regulariser_weight: Tensor) -> Tensor:
        return objective.value({**fixed, **member}, data, weights, regulariser_weight)

    if are_linear(objective, params, held or {}, batch, own_data):
        of_all = linear_gradients(objective, own_data)
    else:
        of_all = vmap(grad_and_value(value), in_dims=(0, 0, 0 if own_data else None, 0, 0))

    arguments = (params, batch, data_weights, regulariser_weights)
    leaves, structure = tree_flatten(arguments)

    def step(*leaves: Tensor) -> tuple[Tensor, ...]:
        stacked, data, weights, strengths = tree_unflatten(leaves, structure)
        gradients, values = of_all(stacked, held or {}, data, weights, strengths)
        return *(gradients[name] for name in params), values

    in_turns = partial(_in_turns, value, held or {}, own_data)
    made = first_way(objective.network, "gradients", lambda: _trace(step, leaves), lambda: in_turns(*arguments))
    if not isinstance(made, GraphModule):
        return TracedStep(in_turns, max(leaf.numel() for leaf in tree_leaves((params, batch))))
    traced = _rewrite(made)
    values = (node.meta.get("val") for node in traced.graph.nodes)
    largest = max(value.numel() for value in values if isinstance(value, Tensor))
    if steps >= COMPILE_FROM_STEPS or steps * largest >= COMPILE_FROM_WORK:
        if can_compile():
            listed, starts = _for_compiling(traced)
            return TracedStep(_OfLeaves(torch.compile(listed, dynamic=False), tuple(params), starts), largest)
        logger.info("no C++ compiler for torch.compile: %d steps run as traced, about half as fast", steps)
    return TracedStep(_OfLeaves(traced, tuple(params)), largest)


def _trace(step: Callable[..., tuple[Tensor, ...]], leaves: list[Tensor]) -> GraphModule:
    """The list of operations of a function, run once on tensors that are real: its checks see their values."""
    # One mode keeps the shapes of all results. Without it each result has one of its own, which takes half of the time.
    with tracing_in(TracingContext(FakeTensorMode())):
        return make_fx(step)(*leaves)


class _OfLeaves:
    """The list of operations, which takes and returns tensors one by one, as a function of what they belong to.

    A batch is taken apart once as long as it stays the same: for small networks that costs as much as some operations.
    Results that a call returns behind the values are the last arguments of the next.
    """

    def __init__(
        self, operations: Callable[..., tuple[Tensor, ...]], names: tuple[str, ...], carried: Sequence[Tensor] = ()
    ) -> None:
        self.operations, self._names, self._carried = operations, names, carried
        self._batch: Batch | None = None
        self._leaves: list[Tensor] = []

    def __call__(
        self, params: Params, batch: Batch, weights: Tensor, regulariser_weights: Tensor
    ) -> tuple[Params, Tensor]:
        if batch is not self._batch:
            self._batch, self._leaves = batch, tree_leaves(batch)
        own = (params[name] for name in self._names)
        results = self.operations(*own, *self._leaves, weights, regulariser_weights, *self._carried)
        *gradients, values = results[: len(self._names) + 1]
        self._carried = results[len(self._names) + 1 :]
        return dict(zip(self._names, gradients, strict=True)), values


def _in_turns(
    value: Callable[..., Tensor],
    held: Params,
    own_data: bool,
    params: Params,
    batch: Batch,
    weights: Tensor,
    regulariser_weights: Tensor,
) -> tuple[Params, Tensor]:
    """Gradients and values member by member, by `torch.autograd` alone."""
    gradients, values = [], []
    for index, (own_weights, strength) in enumerate(zip(weights, regulariser_weights, strict=True)):
        leaves = {name: rows[index].detach().requires_grad_() for name, rows in params.items()}
        fixed = {name: rows[index] for name, rows in held.items()}
        data = tree_map(lambda leaf, index=index: leaf[index * len(leaf) // len(weights)], batch) if own_data else batch
        with torch.enable_grad():
            reached = value(leaves, fixed, data, own_weights, strength)
            slopes = torch.autograd.grad(reached, list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradients.append(dict(zip(leaves, slopes, strict=True)))
        values.append(reached.detach())
    return {name: torch.stack([one[name] for one in gradients]) for name in params}, torch.stack(values)


@cache
def can_compile() -> bool:
    """Whether `torch.compile` works here; it needs a C++ compiler."""
    try:
        with torch.no_grad():
            torch.compile(lambda x: x.sin() + 1)(torch.zeros(3))
    except Exception as error:  # whatever the toolchain raises, the traced step does the same
        logger.debug("torch.compile does not work here: %s", error)
        return False
    return True
