"""`to_bayesian` turns an unmodified deterministic network into its moment-propagating twin, `to_deterministic` back."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from bayes_influence.arguments import check_positive, kind_of
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.moments.calibrated_norms import calibrate_norm, without_factors
from bayes_influence.moments.initial import InitialSigma, fan_in_sigma
from bayes_influence.moments.layers import BayesianLayer, is_bayesian
from bayes_influence.moments.moments import Approximation
from bayes_influence.moments.own_parameters import make_fixed, make_random
from bayes_influence.moments.supported import CONVERTED, reason_against
from bayes_influence.moments.unfolded import unfolded


class UnsupportedModuleError(BayesInfluenceError, TypeError):
    """A network holds a module that moments cannot go through."""


def to_bayesian(
    network: nn.Module,
    *,
    method: str = "first-order",
    max_pooling: str = "co-pooling",
    structure: str = "diagonal",
    initial_sigma: float | InitialSigma | None = None,
) -> nn.Module:
    """The moment-propagating twin of a deterministic network, with Gaussian weights and biases.

    Every layer in `CONVERTED` is replaced in a deep copy, by exact type; parameters keep their names and get their
    `_rho` beside them, so a layer holds `weight, bias, weight_rho, bias_rho`. Torch's attention and encoder layers are
    unfolded into linear layers first, see `unfolded`; in the twin's deterministic network they stay so. Means start at
    the network's weights. Everything else stays: activations, pooling, shapes and residual additions are carried over
    by the rules of the torch functions that they call; hooks and attributes of a replaced layer go over to its twin.
    The twin maps a tensor (or `Moments`) to `Moments` and depends on nothing but its parameters: no sampling.
    Parameters of normalisation layers and of PReLU have no variance: they are trained as point estimates. Those that a
    module of one's own holds itself, a class token say, are Gaussian, and `Moments` where its forward pass reads them,
    see `OwnParameters`; a frozen one of these stays a fixed number. A frozen parameter (`requires_grad=False`) of a
    layer is random as any other, and its mean and its rho are frozen both: its sigma stays at the start. `check_twin`
    holds the twin against the network on a batch.

    Args:
        network: Any network built of supported modules; left as it is.
        method: How elementwise activations are propagated, see `Approximation`. `"exact"` takes Gauss-Hermite for
            an activation that has no closed form.
        max_pooling: How maxima are, see `Approximation`.
        structure: What of the covariance between activations is taken in, see `Approximation`. Factors of
            `"calibrated"` are 1 until training, or you by `variance_factors`, have found them.
        initial_sigma: sigma at the start: a factor of 1/sqrt(fan-in), or a function such as `relative_sigma(0.1)`.
            `fan_in_sigma()` when not given.

    Returns:
        The twin, in the network's training mode, on its devices and in its dtypes.

    Raises:
        UnsupportedModuleError: If a module is not supported; every such module is named with its path.
        TypeError: If this is no network, or `initial_sigma` no number or function.
        ValueError: If there is nothing to convert, two modules share weights, or an option is unknown.
    """
    _check_module(network)
    approximation = Approximation(method, max_pooling, structure)
    _check_unshared(network)
    plain = unfolded(network)
    _check_convertible(plain)
    if initial_sigma is not None and not callable(initial_sigma):
        check_positive(initial_sigma=initial_sigma)
        initial_sigma = fan_in_sigma(initial_sigma)
    sigma = initial_sigma or fan_in_sigma()
    twin = _replaced(
        plain,
        lambda module, path: (
            CONVERTED[type(module)](module, approximation, sigma, path) if type(module) in CONVERTED else None
        ),
    )
    for path, module in twin.named_modules():
        if not isinstance(module, BayesianLayer):
            make_random(module, approximation, sigma, path)
        if approximation.calibrated:
            calibrate_norm(module)
    return twin


def to_deterministic(network: nn.Module) -> nn.Module:
    """The deterministic network at the posterior mean: the inverse of `to_bayesian`, its sigmas dropped.

    Raises:
        TypeError: If this is no network.
        ValueError: If the network has no Bayesian layer.
    """
    _check_module(network)
    if not is_bayesian(network):
        raise ValueError(f"{type(network).__name__} has no Bayesian layer; it is deterministic already")
    plain = _replaced(
        network, lambda module, path: module.deterministic() if isinstance(module, BayesianLayer) else None
    )
    for module in plain.modules():
        make_fixed(module)
        without_factors(module)
    return plain


def _replaced(network: nn.Module, replacement: Callable[[nn.Module, str], nn.Module | None]) -> nn.Module:
    """A deep copy in which every module that has a replacement gives way to it; attributes and hooks go over."""
    twin = deepcopy(network)
    whole = replacement(twin, "")
    if whole is not None:
        return _taking_over(whole, twin)
    for path, parent in list(twin.named_modules()):
        for name, child in parent.named_children():
            successor = replacement(child, f"{path}.{name}" if path else name)
            if successor is not None:
                setattr(parent, name, _taking_over(successor, child))
    return twin


_LAYERS_OWN = frozenset({"approximation", "path", "fan_in", "kind", "geometry"})
"""Attributes of Bayesian layers that mean nothing to a deterministic one."""


def _taking_over(successor: nn.Module, module: nn.Module) -> nn.Module:
    """The successor with the module's mode, its hooks, and the attributes that it does not have itself."""
    for name, value in vars(module).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            vars(successor)[name] = value
        elif not name.startswith("_") and name not in _LAYERS_OWN and not hasattr(successor, name):
            setattr(successor, name, value)
    return successor.train(module.training)


def _check_module(network: Any) -> None:
    if not isinstance(network, nn.Module):
        raise TypeError(f"only a network, an nn.Module, can be converted, got {kind_of(network)}")


def _check_convertible(network: nn.Module) -> None:
    problems = _problems(network, "")
    if problems:
        listed = "\n".join(f"  {path or 'the network itself'}: {reason}" for path, reason in problems)
        raise UnsupportedModuleError(f"{type(network).__name__} cannot be converted:\n{listed}")
    if not any(type(module) in CONVERTED for module in network.modules()):
        raise ValueError(
            f"{type(network).__name__} has no layer to convert; known: {', '.join(kind.__name__ for kind in CONVERTED)}"
        )


def _check_unshared(network: nn.Module) -> None:
    names: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if names.setdefault(id(parameter), name) != name:
            raise ValueError(
                f"{names[id(parameter)]!r} and {name!r} are one parameter; moments treat the weights of different "
                "layers as independent, so give each layer its own"
            )


def _problems(module: nn.Module, path: str) -> list[tuple[str, str]]:
    reason = reason_against(module)
    if reason is not None:
        return [(path, f"{type(module).__name__} {reason}")]
    children = module.named_children()
    return [found for name, child in children for found in _problems(child, f"{path}.{name}" if path else name)]
