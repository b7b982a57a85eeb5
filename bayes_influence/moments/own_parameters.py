"""Parameters that a module of one's own holds, outside of any layer: a class token, places, a factor."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bayes_influence.moments.initial import InitialSigma
from bayes_influence.moments.layers import RHO, log_sigma
from bayes_influence.moments.moments import Approximation, Moments
from bayes_influence.moments.passes import Calls, module_in_call

_ATTRIBUTES = ("_own_approximation", "_own_path")


class OwnParameters:
    """Goes before the class of a module whose own parameters are Gaussian: in a forward pass they are `Moments`.

    A parameter p has its log standard deviation p_rho beside it. Read in a forward pass it is its mean and variance,
    and every operation on it needs a rule, as on an activation. Read twice in a pass, the two would count as
    independent though they are one: where they meet they are refused, as two calls of a layer are.
    """

    _own_approximation: Approximation
    _own_path: str

    def __getattr__(self, name: str) -> Any:
        value: Any = super().__getattr__(name)  # type: ignore[misc]
        rho = vars(self)["_parameters"].get(name + RHO)
        compiling = torch.compiler.is_compiling()
        if rho is None or not (compiling or module_in_call(sys._getframe(1)) is not None):
            return value
        approximation = self._own_approximation
        if not compiling:
            full = f"{self._own_path}.{name}".lstrip(".")
            approximation = replace(approximation, calls=Calls().through(full, value))
        return Moments(value, torch.exp(2 * rho), approximation)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self).__mro__[2],), self.__dict__


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}


def _with_own_parameters(kind: type[nn.Module]) -> type[nn.Module]:
    """One class for each, so that two twins of a network have the same."""
    if kind not in _KINDS:
        said = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _KINDS[kind] = type(kind.__name__, (OwnParameters, kind), said)
    return _KINDS[kind]


def _made(kind: type[nn.Module]) -> nn.Module:
    made = _with_own_parameters(kind)
    return made.__new__(made)


def is_ones_own(module: nn.Module) -> bool:
    """Whether a module's class inherits from no layer of torch, which would use its parameters in its own way."""
    inherited = {base for base in type(module).__mro__ if base.__module__.startswith("torch.")}
    return inherited <= {nn.Module, nn.Sequential}


def fan_in(parameter: torch.Tensor) -> int:
    """What stands for the fan-in of a parameter outside of layers: its last axis, as of the rows of an embedding."""
    return parameter.shape[-1] if parameter.ndim else 1


def make_random(module: nn.Module, approximation: Approximation, initial_sigma: InitialSigma, path: str) -> None:
    """Gives a module's own parameters a sigma, in place; a module without any stays as it is.

    Args:
        module: Of one's own.
        approximation: What its parameters carry on to the rules.
        initial_sigma: sigma at the start, from a parameter and the length of its last axis.
        path: Where the module stands in its network.
    """
    own = module.named_parameters(recurse=False)
    names = [name for name, value in own if value.requires_grad] if is_ones_own(module) else []
    if not names:
        return
    for name in names:
        value = getattr(module, name)
        module.register_parameter(name + RHO, log_sigma(value, initial_sigma, fan_in(value)))
    vars(module).update(zip(_ATTRIBUTES, (approximation, path), strict=True))
    module.__class__ = _with_own_parameters(type(module))


def make_fixed(module: nn.Module) -> None:
    """Takes the sigmas away again, in place; of any other module nothing."""
    if not isinstance(module, OwnParameters):
        return
    module.__class__ = type(module).__mro__[2]
    for name in [name for name in module._parameters if name.endswith(RHO)]:
        delattr(module, name)
    for name in _ATTRIBUTES:
        delattr(module, name)
