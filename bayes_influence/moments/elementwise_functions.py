"""Elementwise functions of moments: first order, closed form, or Gauss-Hermite, as the moments ask."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.gaussian import gauss_hermite
from bayes_influence.moments.joint import descend
from bayes_influence.moments.moments import Moments, assign
from bayes_influence.moments.recomputed import ElementwiseMap, MomentJacobian, recomputed
from bayes_influence.moments.registry import UnsupportedOperationError, functions_named, rule

ValueAndDerivative = Callable[..., tuple[Tensor, Tensor]]
SecondDerivative = Callable[[Tensor, Tensor, Tensor], Tensor | None]
ExactMoments = Callable[..., tuple[Tensor, Tensor]]
ExactDerivatives = Callable[..., MomentJacobian]

_DERIVATIVES: dict[Callable[..., Any], ValueAndDerivative] = {}
_SECOND_DERIVATIVES: dict[ValueAndDerivative, SecondDerivative] = {}
_EXACT: dict[Callable[..., Any], ExactMoments] = {}
_EXACT_DERIVATIVES: dict[ExactMoments, ExactDerivatives] = {}
_WITHOUT_MOMENTS: dict[Callable[..., Any], Callable[..., bool]] = {}


def register_elementwise(*names: str) -> None:
    """Lets moments through the torch functions of these names; their derivatives come from forward mode."""
    for name in names:
        for function in functions_named(name):
            rule(function, entrywise=True, covariant=True)(partial(propagate, function))


def derivative_of(*names: str) -> Callable[[ValueAndDerivative], ValueAndDerivative]:
    """Registers `(m, *args) -> (f(m), f'(m))` for the torch functions of these names: faster than forward mode."""

    def register(value_and_derivative: ValueAndDerivative) -> ValueAndDerivative:
        register_elementwise(*names)
        for name in names:
            _DERIVATIVES.update(dict.fromkeys(functions_named(name), value_and_derivative))
        return value_and_derivative

    return register


def second_derivative_of(first: ValueAndDerivative) -> Callable[[SecondDerivative], SecondDerivative]:
    """Registers `(m, f(m), f'(m)) -> f''(m)`, None for zero; without it the backward pass differentiates."""

    def register(second: SecondDerivative) -> SecondDerivative:
        _SECOND_DERIVATIVES[first] = second
        return second

    return register


def exact_moments_of(*names: str) -> Callable[[ExactMoments], ExactMoments]:
    """Registers `(m, v, *args) -> (E f(x), Var f(x))`, x ~ N(m, v), for the torch functions of these names."""

    def register(moments: ExactMoments) -> ExactMoments:
        register_elementwise(*names)
        for name in names:
            _EXACT.update(dict.fromkeys(functions_named(name), moments))
        return moments

    return register


def without_moments(*names: str, unless: Callable[..., bool] = lambda *args, **kwargs: False) -> None:
    """Declares that these functions of a Gaussian have no moments: they are undefined, or unbounded, on a part of it.

    Args:
        names: Of the torch functions.
        unless: Whether the function's further arguments make an exception.
    """
    register_elementwise(*names)
    for name in names:
        _WITHOUT_MOMENTS.update(dict.fromkeys(functions_named(name), unless))


def moment_derivatives_of(moments: ExactMoments) -> Callable[[ExactDerivatives], ExactDerivatives]:
    """Registers `(m, v, *args) -> MomentJacobian` for a registered closed form: faster than differentiating it."""

    def register(derivatives: ExactDerivatives) -> ExactDerivatives:
        _EXACT_DERIVATIVES[moments] = derivatives
        return derivatives

    return register


def propagate(function: Callable[..., Tensor], x: Any, *args: Any, inplace: bool = False, **kwargs: Any) -> Moments:
    """Moments of an elementwise function of x ~ N(m, v), by the method that x carries.

    First order: f(m) and f'(m)^2 v, the function linearised at the mean. Exact: the closed form if one is registered,
    else Gauss-Hermite. Covariances are to first order in the covariance: Cov(f(x_a), f(x_b)) = E f'(x_a) E f'(x_b)
    Cov(x_a, x_b), where E f' = dE f / dm.

    Args:
        function: f.
        x: Its argument, `Moments`.
        args: Further arguments of f.
        inplace: Whether x itself takes the result.
        kwargs: Further keyword arguments of f.

    Raises:
        UnsupportedOperationError: If another argument than the first is random, or the function has no moments.
    """
    if not isinstance(x, Moments) or any(isinstance(value, Moments) for value in (*args, *kwargs.values())):
        raise UnsupportedOperationError(
            f"{function.__name__} takes Moments as its first argument only; its other arguments must be fixed"
        )
    # `inplace` may come by position, and no elementwise function has another boolean.
    inplace = inplace or any(value is True for value in args)
    args = tuple(value for value in args if not isinstance(value, bool))
    moments = _elementwise_map(function, x.approximation.method, args, kwargs)
    evaluated = moments.value if _holds_tensors(args, kwargs) else partial(recomputed, moments)
    # Closed forms and quadratures take single precision at least.
    dtype = x.dtype if x.approximation.method == "first-order" else torch.promote_types(x.dtype, torch.float32)
    inputs = x.expectation.to(dtype), x.variance.to(dtype)
    mean, variance = (moment.to(x.dtype) for moment in evaluated(*inputs))
    covariance = None
    find_slope: Callable[[], Tensor] = partial(_slope, moments, inputs, x.dtype)
    if x.covariance is not None:
        slope = find_slope()
        covariance, find_slope = x.covariance.scaled(slope), lambda: slope
    result = Moments(mean, variance, x.approximation, covariance)
    descend(result, x, find_slope, affine=x.approximation.method == "first-order")
    return assign(x, result) if inplace else result


def _elementwise_map(
    function: Callable[..., Tensor], method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ElementwiseMap:
    unless = _WITHOUT_MOMENTS.get(function)
    if method != "first-order" and unless is not None and not unless(*args, **kwargs):
        raise UnsupportedOperationError(
            f"{function.__name__} of a Gaussian has no moments, as it is undefined or unbounded somewhere, so "
            f"method {method!r} cannot give them; use method='first-order', or make one function that is defined "
            "everywhere of it and what comes before, with bayes_influence.moments.elementwise"
        )
    exact = _EXACT.get(function)
    if method == "exact" and exact is not None:
        closed_form = partial(_with_options, exact, args, kwargs)
        derivatives = _EXACT_DERIVATIVES.get(exact)
        slopes = None if derivatives is None else partial(_with_options, derivatives, args, kwargs)
        return ElementwiseMap(closed_form, slopes, in_blocks=not _holds_tensors(args, kwargs))
    if method == "first-order":
        at = partial(_with_options, partial(value_and_derivative, function), args, kwargs)
        second = _SECOND_DERIVATIVES.get(_DERIVATIVES[function]) if function in _DERIVATIVES else None
        slopes = None if second is None else partial(_first_order_derivatives, at, second)
        return ElementwiseMap(partial(_first_order, at), slopes)
    fixed = partial(_with_options, function, args, kwargs)
    return ElementwiseMap(lambda mean, variance: gauss_hermite(fixed, mean, variance))


def _slope(moments: ElementwiseMap, inputs: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    return moments.slope(*inputs).to(dtype)


def _holds_tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether f has a tensor beside its argument, such as the slopes of PReLU, in which gradients are taken as well."""
    return any(isinstance(option, Tensor) for option in (*args, *kwargs.values()))


def _with_options(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *x: Tensor) -> Any:
    return function(*x, *args, **kwargs)


def _first_order(
    at: Callable[[Tensor], tuple[Tensor, Tensor]], mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    value, derivative = at(mean)
    return value, derivative.square() * variance


def _first_order_derivatives(
    at: Callable[[Tensor], tuple[Tensor, Tensor]], second: SecondDerivative, mean: Tensor, variance: Tensor
) -> MomentJacobian:
    value, derivative = at(mean)
    curvature = second(mean, value, derivative)
    variance_by_mean = None if curvature is None else 2 * derivative * curvature * variance
    return MomentJacobian(derivative, None, variance_by_mean, derivative.square())


def value_and_derivative(
    function: Callable[..., Tensor], mean: Float[Tensor, "*shape"], *args: Any, **kwargs: Any
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """f(m) and f'(m), elementwise: by the registered derivative, else by one forward-mode pass."""
    if function in _DERIVATIVES:
        return _DERIVATIVES[function](mean, *args, **kwargs)
    forward_mode = torch.func.jvp(lambda values: function(values, *args, **kwargs), (mean,), (torch.ones_like(mean),))
    return forward_mode[0], forward_mode[1]


def elementwise(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Makes an elementwise function of tensors, written in any torch operations, accept `Moments` as well.

    Without it the operations inside f are propagated one by one as if they were independent; x * sigmoid(x) would get
    the variance of a product of two independent factors.

    Args:
        function: f(x, ...), each output entry a function of the input entry at the same place.

    Returns:
        f for tensors, and its moments by first order or Gauss-Hermite for `Moments`.
    """

    def dispatch(x: Any, *args: Any, **kwargs: Any) -> Any:
        return propagate(function, x, *args, **kwargs) if isinstance(x, Moments) else function(x, *args, **kwargs)

    return update_wrapper(dispatch, function)
