"""Partial evaluation of products: what does not depend on the vectors is computed once and kept.

A product A V of a batch is traced into a list of tensor operations. Those that V does not reach (the forward pass, the
backward pass, everything the linearisation happens at) form the *primal* part, run once per batch; the rest is the
*tangent* part, run for every product; what of it does not depend on the batch either is done once for all batches. For
one vector this saves about 3 of 9 matrix products and all Python between them.

Under `vmap` a product of one shared matrix with K others arrives as K separate products of a stretched operand. The
tangent part takes them as one wide matrix product, which reaches the machine's peak where the K narrow ones do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node

from bayes_influence.data.batch import Batch
from bayes_influence.torch_internals import make_fx, tree_leaves

aten = torch.ops.aten

BatchProduct = Callable[[Tensor, Batch, Tensor], Tensor]
"""(theta, batch, V) -> A V of that batch, a pure function."""


class TracedProduct:
    """A V for batches of one shape and K vectors, split into a primal and a tangent part.

    Attributes:
        primal: (theta, batch leaves) -> the intermediate values that the tangent part needs.
        common: (theta, V) -> what it needs of the vectors, whatever the batch.
        tangent: (kept values, common values, theta, batch leaves, V) -> A V.
    """

    def __init__(self, product: BatchProduct, theta: Tensor, batch: Batch, vectors: Tensor) -> None:
        def function(theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
            return product(theta, batch, vectors)

        # Without in-place operations, the primal part's values are the same for every product. Tensors without memory
        # are traced: a trace holds all intermediate values at once.
        trace = make_fx(functionalize(function), tracing_mode="fake", _allow_non_fake_inputs=True)
        traced = trace(theta, batch, vectors)
        _widen(traced.graph)
        _forget_strides(traced.graph)
        _forget_aliases(traced.graph)
        _forget_zeros(traced.graph)
        traced.graph.eliminate_dead_code()
        *fixed, last = (node for node in traced.graph.nodes if node.op == "placeholder")
        first, *leaves = fixed
        tangents, of_batch = _reached_from([last], traced.graph), _reached_from(leaves, traced.graph)
        primals = [node for node in traced.graph.nodes if node not in tangents]
        body = [node for node in traced.graph.nodes if node.op == "output" or (node in tangents and node in of_batch)]
        needed = [node for node in _boundary(body) if node.op != "placeholder"]
        kept = [node for node in needed if node not in tangents]
        shared = [node for node in needed if node in tangents]
        self.primal = _subgraph(traced, fixed, primals, kept)
        everywhere = [node for node in traced.graph.nodes if node not in of_batch]
        self.common = _subgraph(traced, [first, last], everywhere, shared)
        self.tangent = _subgraph(traced, [*kept, *shared, *fixed, last], body, None)

    def linearise(self, theta: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """What the tangent part needs of one batch, beside the batch itself."""
        with torch.no_grad():
            return tuple(map(_in_memory, self.primal(theta, *tree_leaves(batch))))

    def prepare(self, theta: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
        """What it needs of the vectors, once for all batches: V itself last."""
        with torch.no_grad():
            return (*self.common(theta, vectors), vectors)

    def __call__(self, kept: Sequence[Tensor], theta: Tensor, batch: Batch, prepared: tuple[Tensor, ...]) -> Tensor:
        """A V of the batch that `kept` came from, for the vectors that were prepared."""
        *common, vectors = prepared
        with torch.no_grad():
            return self.tangent(*kept, *common, theta, *tree_leaves(batch), vectors)


def kept_bytes(kept: Sequence[Tensor], free: Sequence[Tensor]) -> int:
    """Memory of the kept values, each storage counted once, without those of `free` (the data themselves)."""
    sizes = {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for leaf in kept}
    return sum(sizes.values()) - sum(
        sizes.get(pointer, 0) for pointer in {leaf.untyped_storage().data_ptr() for leaf in free}
    )


def _in_memory(value: Tensor) -> Tensor:
    """The value; written out where it is torch's zero without memory, which derivatives of a constant are."""
    try:
        value.untyped_storage().data_ptr()
    except RuntimeError:
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
    return value


def _reached_from(sources: Sequence[Node], graph: Graph) -> set[Node]:
    reached = set(sources)
    for node in graph.nodes:
        if node.op == "output" or not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return reached


def _boundary(body: Sequence[Node]) -> list[Node]:
    inside = set(body)
    inputs = (node for user in body for node in user.all_input_nodes if node not in inside)
    return list(dict.fromkeys(inputs))


def _subgraph(traced: GraphModule, inputs: Sequence[Node], body: Sequence[Node], results: list[Node] | None) -> Any:
    """The operations of `body` as a function of `inputs`; returns `results`, or what the whole graph returned."""
    graph, copies = Graph(), {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
    for node in body:
        if node.op == "output":
            continue
        if node not in copies:
            copies[node] = graph.node_copy(node, lambda original: copies[original])
    if results is None:
        (output,) = (node for node in traced.graph.nodes if node.op == "output")
        (result,) = tree_leaves(output.args)
        graph.output(copies[result])
    else:
        graph.output(tuple(copies[node] for node in results))
    graph.eliminate_dead_code()
    return GraphModule(traced, graph)


def _widen(graph: Graph) -> None:
    """Turns K products with one shared matrix into a single wide one."""
    for node in graph.nodes:
        if node.target is aten.bmm.default:
            left, right = node.args
            shared_left, shared_right = _shared(left), _shared(right)
            if shared_left is not None:
                with graph.inserting_before(node):
                    wide = graph.call_function(_side_by_side, (right,))
                node.target, node.args = _product_with_shared_left, (shared_left, wide, _shape(right)[0])
            elif shared_right is not None:
                node.target, node.args = _product_with_shared_right, (left, shared_right)


def _forget_strides(graph: Graph) -> None:
    """Views become reshapes, so that vectors and batches may be laid out otherwise than those of the trace."""
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default


def _forget_aliases(graph: Graph) -> None:
    """Another name of a tensor is that tensor: nothing is written in place."""
    for node in graph.nodes:
        if node.target in (aten.alias.default, aten.detach.default):
            node.replace_all_uses_with(node.args[0])


ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
SHAPED = (aten.expand.default, aten.reshape.default, aten.permute.default, aten.transpose.int, aten.t.default)
PRODUCTS = (aten.mm.default, aten.bmm.default, aten.mul.Tensor)


def _forget_zeros(graph: Graph) -> None:
    """Takes out sums with zeros: derivatives along what has none, such as the data, arrive as products with zeros."""
    zeros: set[Node] = set()
    for node in graph.nodes:
        operands = node.all_input_nodes
        if (
            node.target in ZEROS
            or (node.target in SHAPED and operands[0] in zeros)
            or (node.target in PRODUCTS and not zeros.isdisjoint(operands))
        ):
            zeros.add(node)
        elif node.target is aten.add.Tensor and len(operands) == 2 and not zeros.isdisjoint(operands):
            first, second = operands
            other = second if first in zeros else first
            same_type = "alpha" not in node.kwargs and other.meta["val"].dtype == node.meta["val"].dtype
            if same_type and (_shape(other) == _shape(node) or _is_widened_again(node)):
                node.replace_all_uses_with(other)


def _is_widened_again(node: Node) -> bool:
    """Whether only sums use this one whose other operand has their whole shape already."""
    for user in node.users:
        if user.target is not aten.add.Tensor or user.kwargs or len(user.all_input_nodes) != 2:
            return False
        (other,) = (operand for operand in user.all_input_nodes if operand is not node)
        if _shape(other) != _shape(user):
            return False
    return True


def _shared(operand: Node) -> Node | None:
    """The matrix that a stack of matrices repeats, if it was made by stretching one."""
    while operand.target is aten.view.default and _shape(operand) == _shape(operand.args[0]):
        operand = operand.args[0]  # type: ignore[assignment]
    if operand.target is not aten.expand.default:
        return None
    source = operand.args[0]
    return source if _shape(source) == _shape(operand)[1:] else None  # type: ignore[return-value]


def _shape(node: Any) -> torch.Size:
    return node.meta["val"].shape


def _side_by_side(stack: Tensor) -> Tensor:
    """(B_1 ... B_K) of shape (k, K n) from the B_k of (K, k, n)."""
    members, inner, columns = stack.shape
    return stack.permute(1, 0, 2).reshape(inner, members * columns)


def _product_with_shared_left(shared: Tensor, wide: Tensor, members: int) -> Tensor:
    """S B_k for every k: (m, k) times the B_k side by side."""
    return (shared @ wide).view(len(shared), members, -1).permute(1, 0, 2).contiguous()


def _product_with_shared_right(stack: Tensor, shared: Tensor) -> Tensor:
    """B_k S for every k: (K, m, k) times (k, n)."""
    members, rows, inner = stack.shape
    if stack.stride(2) == 1:
        tall = stack.reshape(members * rows, inner)
    else:
        tall = stack.permute(2, 0, 1).reshape(inner, members * rows).T
    return (tall @ shared).view(members, rows, -1)
