"""Sums, differences, products and quotients with numbers, tensors and independent moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from bayes_influence.moments.joint import added, covary, descend, multiplied_by
from bayes_influence.moments.moments import Approximation, Moments, without_covariance_rule
from bayes_influence.moments.passes import Calls
from bayes_influence.moments.registry import UnsupportedOperationError, rule


def mean_of(operand: Any) -> Any:
    """The mean of moments; anything else is its own mean."""
    return operand.expectation if isinstance(operand, Moments) else operand


def shared_approximation(*operands: Any, mixed: bool = True) -> Approximation:
    """The approximation of the moments among the operands; of the first that is not the default, where they differ.

    Inputs that a user made carry the default, and meet what a network's layers set in skip connections.

    Args:
        operands: Moments, and anything else.
        mixed: Whether entries of one are mixed with entries of another, or only stand beside them.

    Raises:
        ValueError: If two of them were set to different ones.
        UnsupportedOperationError: If two calls of one layer would be mixed.
    """
    among = [x.approximation for x in operands if isinstance(x, Moments)]
    if len(among) == 1:
        return among[0]
    chosen = set(among) - {Approximation()}
    if len(chosen) > 1:
        raise ValueError(f"moments with different approximations were combined: {sorted(map(str, chosen))}")
    calls = reduce(Calls.beside, (approximation.calls for approximation in among))
    if mixed:
        calls.check_mixed()
    return replace(chosen.pop() if chosen else among[0], calls=calls)


def check_fixed(function: str, **parameters: Any) -> None:
    """Refuses random parameters of a function whose rule takes fixed ones.

    Raises:
        UnsupportedOperationError: Naming the function and the parameter.
    """
    for name, value in parameters.items():
        if isinstance(value, Moments):
            raise UnsupportedOperationError(
                f"{function} of Moments takes a fixed {name}, got Moments (a parameter that a module holds itself is "
                f"Gaussian); put it into a layer of torch.nn that does the same, or freeze it by requires_grad=False"
            )


def _joint(function: Callable[..., Moments], left: Moments, right: Moments, *arguments: Any) -> Moments:
    """A function of two branches that covary; refused where what they share is not known."""
    approximation = shared_approximation(left, right)
    shape = torch.broadcast_shapes(left.shape, right.shape)
    pair = [_to_shape(x, shape) for x in (left, right)]
    try:
        return function(*pair, *arguments, approximation)
    except LookupError:
        what = "a sum or product of two Moments of which one came through an index or a transformation"
        raise without_covariance_rule(what, approximation) from None


def _to_shape(x: Moments, shape: torch.Size) -> Moments:
    if x.shape == shape:
        return x
    if x.covariance is not None:
        raise without_covariance_rule("an operand that takes the shape of the other", x.approximation)
    return Moments(x.expectation.expand(shape), x.variance.expand(shape), x.approximation)


@rule("add", torch.Tensor.__add__, torch.Tensor.__radd__, covariant=True)
def add(left: Any, right: Any, *, alpha: float = 1) -> Moments:
    """Sum: m_1 + alpha m_2 and v_1 + alpha^2 v_2 for independent branches; (1 + alpha)^2 v when both are one object."""
    if left is right:
        return _scaled(left, 1 + alpha)
    if covary(left, right):
        return _joint(added, left, right, alpha)
    first, second = mean_of(left), mean_of(right)
    mean = first + second if alpha == 1 else first - second if alpha == -1 else first + alpha * second
    if not isinstance(right, Moments):
        variance = left.variance
    else:
        variance = right.variance if alpha**2 == 1 else alpha**2 * right.variance
        variance = left.variance + variance if isinstance(left, Moments) else variance
    result = Moments(mean, _expanded(variance, mean), shared_approximation(left, right))
    if isinstance(left, Moments) and isinstance(right, Moments):
        return result
    return _following(result, left, 1.0) if isinstance(left, Moments) else _following(result, right, alpha)


@rule("sub", torch.Tensor.__sub__, torch.Tensor.__rsub__, covariant=True)
def subtract(left: Any, right: Any, *, alpha: float = 1) -> Moments:
    """Difference: m_1 - alpha m_2 and v_1 + alpha^2 v_2 for independent branches; zero variance for x - x."""
    return add(left, right, alpha=-alpha)


@rule("mul", "multiply", torch.Tensor.__mul__, torch.Tensor.__rmul__, covariant=True)
def multiply(left: Any, right: Any) -> Moments:
    """Product: m_1 m_2 and m_1^2 v_2 + m_2^2 v_1 + v_1 v_2 for independent branches; c m and c^2 v for a constant c.

    For x * x, one object twice, the branches are not independent: m^2 + v and 2 v^2 + 4 m^2 v (exact for a Gaussian).
    """
    if left is right:
        return squared(left)
    if covary(left, right):
        return _joint(multiplied_by, left, right)
    if not (isinstance(left, Moments) and isinstance(right, Moments)):
        return _scaled(left, right) if isinstance(left, Moments) else _scaled(right, left)
    mean = left.expectation * right.expectation
    second = right.expectation.square() + right.variance
    variance = left.expectation.square() * right.variance + second * left.variance
    return Moments(mean, _expanded(variance, mean), shared_approximation(left, right))


def _scaled(x: Moments, constant: Any) -> Moments:
    """C m and c^2 v."""
    mean = x.expectation * constant
    constant = _of_dtype(constant, mean)
    return _following(Moments(mean, _expanded(x.variance * constant**2, mean), x.approximation), x, constant)


def _following(result: Moments, x: Moments, factor: Any) -> Moments:
    """What is the factor times x, and a constant, with the covariance that follows from x's, if it has x's shape."""
    if x.covariance is not None and result.shape != x.shape:
        raise without_covariance_rule("Moments that take the shape of a tensor", x.approximation)
    if not x.approximation.covariant:
        return result
    covariance = x.covariance and x.covariance.scaled(factor)
    followed = Moments(result.expectation, result.variance, result.approximation, covariance)
    return descend(followed, x, lambda: factor) if result.shape == x.shape else followed


def squared(x: Moments) -> Moments:
    """Exact moments of the square of a Gaussian: m^2 + v and 2 v^2 + 4 m^2 v."""
    square = x.expectation.square()
    covariance = None if x.covariance is None else x.covariance.scaled(2 * x.expectation)
    result = Moments(square + x.variance, (2 * x.variance + 4 * square) * x.variance, x.approximation, covariance)
    slope = 2 * x.expectation
    return descend(result, x, lambda: slope, affine=False)


@rule("div", "divide", "true_divide", torch.Tensor.__truediv__, covariant=True)
def divide(left: Any, right: Any) -> Moments:
    """Quotient: m / c and v / c^2 for a constant c.

    Raises:
        UnsupportedOperationError: If the divisor is random: a ratio with a Gaussian divisor has no moments.
    """
    if isinstance(right, Moments):
        raise UnsupportedOperationError(
            "a quotient with Moments as divisor has no moments; divide by a tensor, or, under "
            "method='first-order', multiply by torch.reciprocal"
        )
    mean = left.expectation / right
    right = _of_dtype(right, mean)
    quotient = Moments(mean, _expanded(left.variance / right**2, mean), left.approximation)
    return _following(quotient, left, 1 / right)


@rule("neg", "negative", entrywise=True, covariant=True)
def negate(x: Moments) -> Moments:
    """Negation: -m and v."""
    return _following(Moments(-x.expectation, x.variance, x.approximation), x, -1)


_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "not_equal", "less", "less_equal", "greater", "greater_equal")
_DUNDERS = [getattr(Tensor, f"__{name}__") for name in _COMPARISONS[:6]]


@rule(*_COMPARISONS, *_DUNDERS, "isclose", "allclose", "equal")
def compare(*operands: Any, **_: Any) -> Any:
    """No result.

    Raises:
        UnsupportedOperationError: Always: which of two values is the larger is random.
    """
    raise UnsupportedOperationError(
        "Moments cannot be compared, as how a random value compares is random itself; compare the .expectation where "
        "that is what you mean, or compute the mask from fixed tensors"
    )


@rule(Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__array__, "item", "tolist", "numpy")
def as_number(x: Any, *_: Any, **__: Any) -> Any:
    """No result.

    Raises:
        UnsupportedOperationError: Always: moments are two numbers.
    """
    raise UnsupportedOperationError(
        f"Moments of shape {tuple(x.shape)} are a mean and a variance, and cannot become a number, a truth value or an "
        "array; take .expectation or .variance"
    )


@rule(Tensor.__setitem__)
def set_entries(x: Any, *_: Any) -> Any:
    """No result.

    Raises:
        UnsupportedOperationError: Always.
    """
    raise UnsupportedOperationError(
        f"entries of {type(x).__name__} cannot be assigned where Moments take part; build the result with torch.where, "
        "torch.cat or torch.stack"
    )


def _of_dtype(constant: Any, like: Tensor) -> Any:
    """A constant that can be squared: the square of an integer tensor overflows in its own dtype."""
    return constant.to(like.dtype) if isinstance(constant, Tensor) else constant


def _expanded(variance: Tensor, like: Tensor) -> Tensor:
    """Variances of the mean's shape, in memory as the mean is, so that one may be viewed as the other."""
    return variance if variance.shape == like.shape else variance.expand(like.shape).contiguous()
