"""Derivatives in whichever way torch has one: forward mode, the same with plain formulas, or reverse over reverse.

Forward mode and batching (`torch.func.jvp`, `vmap`) are the fast way, but not every operation has them: fused attention
and recurrent kernels, weight normalisation, the Huber and margin losses, custom autograd functions. Each derivative
here is therefore given twice, `quick` and `patient`; what a network needs is found out where the quick one fails, and
remembered for that network.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, vmap

from bayes_influence.errors import BayesInfluenceError
from bayes_influence.forward_mode import jvp
from bayes_influence.objectives.plain_formulas import plain_formulas
from bayes_influence.torch_internals import tree_flatten, tree_leaves, tree_map, tree_unflatten

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAYS = ("forward mode", "forward mode with plain formulas", "reverse mode, one direction or example at a time")
"""In the order in which they are tried."""

UNBATCHED = "There is a performance drop because we have not yet implemented the batching rule"
"""How torch's warning begins when it computes examples one by one: its attention for processors, for example."""

Derivative = Literal["losses", "gradients", "products", "bends", "outputs"]
"""What is derived: nothing of single examples' losses, gradients and Jacobians, products with second derivatives, those
along two directions or in parameters and inputs, or losses in the outputs."""

_known: WeakKeyDictionary[nn.Module, dict[Derivative, int]] = WeakKeyDictionary()
"""The first of the ways that a network has been seen to have, for each of these."""


class NoDerivativeError(BayesInfluenceError, ValueError):
    """Torch has no derivative of a network or likelihood that is needed, in any of the ways."""


def first_way(network: nn.Module, what: Derivative, quick: Callable[[], T], patient: Callable[[], T]) -> T:
    """What `quick` computes; `patient` where torch lacks forward mode or a batching rule for the network.

    Args:
        network: Whose derivative it is; later calls for the same network begin with the way that worked.
        what: Which derivative.
        quick: By `torch.func`, batched.
        patient: The same by `torch.autograd` alone, without batching.

    Raises:
        OutOfMemoryError: As it came; a slower way is tried for what is missing, not for what does not fit.
        NoDerivativeError: If torch has none of them; says what it lacks and what can be done.
        RuntimeError: The network's own, where every way ends in the same one.
    """
    known = _known.setdefault(network, {})
    first: Exception | None = None
    last: Exception = RuntimeError()
    for way in range(known.setdefault(what, _first_known(network, what)), len(WAYS)):
        try:
            with _context(way):
                result = patient() if way == 2 else quick()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, UserWarning) as error:
            logger.debug("%s failed: %s", WAYS[way], error)
            if first is not None and str(error) == str(first) and way == 2:
                raise first from None
            first, last = first or error, error
            continue
        if first is not None:
            logger.info("%s of %s by %s: %s", what, type(network).__name__, WAYS[way], first)
            known[what] = way
        return result
    reason = str(last).strip().split("\n")[0]
    raise NoDerivativeError(
        f"torch has no such derivative of this network or its likelihood: {reason} Tried: {', '.join(WAYS)}. Take "
        f"curvature that needs first derivatives only (curvature=EKFAC(fisher='empirical')), influence in the last "
        f"layer (parameters='last-layer'), or put an equal layer of plain operations in its place"
    ) from first


def is_quick(network: nn.Module, what: Derivative) -> bool:
    """Whether this derivative of the network is not known to need anything but forward mode and batching."""
    return _known.get(network, {}).get(what, _first_known(network, what)) == 0


def _first_known(network: nn.Module, what: Derivative) -> int:
    """The first way that torch gives right results by.

    Its forward derivative of an embedding moves the padding row, which its gradient does not, and those of the forward
    derivatives of normalisations are wrong, whether these are layers or functions: such are taken with plain formulas.
    """
    return int(what == "bends" or any(getattr(module, "padding_idx", None) is not None for module in network.modules()))


def checked_symmetric(matrix: Float[Tensor, "K K"]) -> Float[Tensor, "K K"]:
    """A matrix of second derivatives by reverse mode, as it came.

    Raises:
        NoDerivativeError: If it is not symmetric: torch then left out a part without a word.
    """
    asymmetry, scale = float((matrix - matrix.T).abs().max()), float(matrix.abs().max())
    if asymmetry > torch.finfo(matrix.dtype).eps ** 0.5 * scale:
        raise NoDerivativeError(
            f"torch's second derivative of this network is not symmetric (|H - H'| reaches {asymmetry:.3g}): one of "
            f"its functions has none, such as a custom one that is marked once_differentiable; write that in "
            f"differentiable operations, or take influence in layers behind it"
        )
    return matrix


@contextmanager
def _context(way: int) -> Iterator[None]:
    """The formulas of a way; a kernel that torch cannot batch, and says so, is no quick way where a formula is."""
    with warnings.catch_warnings(), nullcontext() if way == 0 else plain_formulas():
        warnings.filterwarnings("error" if way == 0 else "ignore", UNBATCHED, UserWarning)
        yield


def over_members(
    network: nn.Module, function: Callable[..., Any], arguments: tuple[Any, ...], in_dims: tuple[int | None, ...]
) -> Any:
    """What `vmap(function, in_dims)` gives, member by member where torch cannot batch the network.

    Args:
        network: What the function calls.
        function: Of one member, without derivatives.
        arguments: Tensors or nestings of them.
        in_dims: 0 where an argument has an axis of members, None where they share it.
    """
    quick, patient = vmap(function, in_dims=in_dims), partial(one_by_one, function, arguments, in_dims)
    return first_way(network, "losses", lambda: quick(*arguments), patient)


def one_by_one(function: Callable[..., Any], arguments: tuple[Any, ...], in_dims: tuple[int | None, ...]) -> Any:
    """What `vmap(function, in_dims)` gives, called once for every member."""

    def of_member(row: int) -> list[Any]:
        pairs = zip(arguments, in_dims, strict=True)
        return [arg if axis is None else tree_map(lambda leaf: leaf[row], arg) for arg, axis in pairs]

    mapped = next(arg for arg, axis in zip(arguments, in_dims, strict=True) if axis is not None)
    found = [function(*of_member(row)) for row in range(len(tree_leaves(mapped)[0]))]
    return tree_map(lambda *leaves: torch.stack(leaves), *found)


def forward_products(
    function: Callable[[Tensor], Tensor], theta: Float[Tensor, " P"], vectors: Float[Tensor, "P K"]
) -> Float[Tensor, "P K"]:
    """The Hessian of a scalar function times K vectors at once, forward over reverse."""
    return vmap(lambda vector: jvp(grad(function), (theta,), (vector,))[1], 1, 1)(vectors)


@torch.enable_grad()
def reverse_gradient(function: Callable[[Tensor], Tensor], theta: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """The gradient of a scalar function; 0 where it does not depend on theta."""
    at, value = _evaluated(function, theta)
    return _gradient(value, at).detach()


@torch.enable_grad()
def reverse_products(
    function: Callable[[Tensor], Tensor], theta: Float[Tensor, " P"], vectors: Float[Tensor, "P K"]
) -> Float[Tensor, "P K"]:
    """The Hessian of a scalar function times each of K vectors, reverse over reverse."""
    at, value = _evaluated(function, theta)
    slope = _gradient(value, at, create=True)
    columns = [_gradient((slope * vector).sum(), at, keep=True) for vector in vectors.T]
    return torch.stack(columns, dim=1).detach()


def small_products(
    network: nn.Module,
    what: Derivative,
    function: Callable[[Tensor], Tensor],
    theta: Float[Tensor, " P"],
    vectors: Float[Tensor, "P K"],
) -> Float[Tensor, "P K"]:
    """The Hessian of a scalar function of a few operations times each of K vectors.

    Reverse over reverse: to set up forward mode and its batching takes three milliseconds, which such a function, a
    likelihood of outputs or a regulariser, does not win back at any size.

    Args:
        network: As `first_way`, which is asked where torch lacks a second derivative in reverse mode.
        what: Which derivative.
        function: Of a vector.
        theta: Where.
        vectors: Along what.

    Raises:
        OutOfMemoryError: As it came.
        NoDerivativeError, RuntimeError: As `first_way`.
    """

    def patient() -> Tensor:
        return reverse_products(function, theta, vectors)

    try:
        return patient()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return first_way(network, what, lambda: forward_products(function, theta, vectors), patient)


@torch.enable_grad()
def reverse_along(function: Callable[[Tensor], Any], theta: Float[Tensor, " P"], direction: Float[Tensor, " P"]) -> Any:
    """The derivative of a function along one direction: J'u is linear in u, and its derivative there is J v.

    The function's value may be any nesting of tensors.
    """
    at, value = _evaluated(function, theta)
    leaves, structure = tree_flatten(value)
    duals = [torch.zeros_like(leaf, requires_grad=True) for leaf in leaves]
    pulled = _gradient(sum((leaf * dual).sum() for leaf, dual in zip(leaves, duals, strict=True)), at, create=True)
    tangents = torch.autograd.grad((pulled * direction).sum(), duals, materialize_grads=True)
    return tree_unflatten([tangent.detach() for tangent in tangents], structure)


@torch.enable_grad()
def reverse_bend(
    function: Callable[[Tensor], Tensor],
    theta: Float[Tensor, " P"],
    first: Float[Tensor, " P"],
    second: Float[Tensor, " P"],
) -> Float[Tensor, "*shape"]:
    """The second derivative of a tensor function along two directions, u'(grad^2 f)v, by reverse mode four times over.

    Linear in a dual of the value: the gradient of dual'f along u, and of that along v, is the dual of the result.
    """
    at, value = _evaluated(function, theta)
    dual = torch.zeros_like(value, requires_grad=True)
    slope = (_gradient((value * dual).sum(), at, create=True) * first).sum()
    bend = (_gradient(slope, at, create=True) * second).sum()
    if not bend.requires_grad:
        return torch.zeros_like(value).detach()
    return torch.autograd.grad(bend, dual, materialize_grads=True, allow_unused=True)[0].detach()


@torch.enable_grad()
def reverse_third(
    function: Callable[[Tensor], Tensor],
    theta: Float[Tensor, " P"],
    first: Float[Tensor, " P"],
    second: Float[Tensor, " P"],
) -> Float[Tensor, " P"]:
    """T[u, v], the gradient of u'(grad^2 f)v, of a scalar function."""
    at, value = _evaluated(function, theta)
    slope = _gradient(value, at, create=True)
    turned = _gradient((slope * first).sum(), at, create=True)
    return _gradient((turned * second).sum(), at).detach()


@torch.enable_grad()
def reverse_jacobian(function: Callable[[Tensor], Tensor], theta: Float[Tensor, " P"]) -> Float[Tensor, "C P"]:
    """The Jacobian of a function of shape (C,), row by row."""
    at, value = _evaluated(function, theta)
    return torch.stack([_gradient(entry, at, keep=True) for entry in value]).detach()


@torch.enable_grad()
def reverse_pulled(
    function: Callable[[Tensor], Any], theta: Float[Tensor, " P"], cotangents: Any
) -> Float[Tensor, " P"]:
    """J'u for a function whose value is any nesting of tensors."""
    at, value = _evaluated(function, theta)
    pairs = zip(tree_flatten(value)[0], tree_flatten(cotangents)[0], strict=True)
    return _gradient(sum((leaf * cotangent).sum() for leaf, cotangent in pairs), at).detach()


def _evaluated(function: Callable[[Tensor], T], theta: Tensor) -> tuple[Tensor, T]:
    at = theta.detach().clone().requires_grad_()
    return at, function(at)


def _gradient(value: Any, at: Tensor, create: bool = False, keep: bool = False) -> Tensor:
    """The gradient of a scalar, 0 where it does not depend on `at`; gradients have to be on."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return torch.zeros_like(at)
    (slope,) = torch.autograd.grad(
        value, at, create_graph=create, retain_graph=create or keep, allow_unused=True, materialize_grads=True
    )
    return slope
