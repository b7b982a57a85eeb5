"""`check_twin`: whether a Bayesian network is the network that it was made of, found out on a batch of data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.data.arguments import as_call
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.layers import FACTOR, RHO, BayesianLayer, is_bayesian
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.unfolded import unfolded
from bayes_influence.torch_internals import tree_flatten

TOLERANCE = 1e-4
"""Largest difference of the outputs, relative to the largest output: a rule at a variance of zero works with a standard
deviation of 1e-6 where it divides by one, and some tens of layers add up."""

_CERTAIN = -1e4
"""A log sigma whose sigma is zero in every floating-point type."""


class TwinMismatchError(BayesInfluenceError, ValueError):
    """A Bayesian network does not compute what the network that it was made of computes."""


def check_twin(network: nn.Module, twin: nn.Module, inputs: Any) -> None:
    """Holds a twin against its network on a batch, both at the network's weights and in evaluation mode.

    At sigma = 0 the twin's means must be the network's outputs; every layer must be called as often in one as in the
    other, and at most once; and its weights must reach the outputs through these calls only. So what only a run shows
    is noticed: branches that a twin takes otherwise, functions that hold on to the network they were made for, weights
    that are used twice. Three forward passes and a backward pass; a few examples do. Neither network is changed.

    Args:
        network: The deterministic network.
        twin: What `to_bayesian` made of it, trained or not.
        inputs: A batch, or `Arguments`; of random inputs the expectation is taken.

    Raises:
        TwinMismatchError: Saying what differs.
        ValueError: If the twin is not Bayesian, or of another network.
        UnsupportedOperationError: If the twin meets an operation that has no rule.
    """
    if not is_bayesian(twin):
        raise ValueError(f"the twin, a {type(twin).__name__}, has no Bayesian layer; make it with to_bayesian")
    network, twin = unfolded(network).eval(), deepcopy(twin).eval()
    args, kwargs = as_call(mean_of(inputs))
    layers = [path for path, module in twin.named_modules() if isinstance(module, BayesianLayer)]
    state = _without_variance(network, twin)
    with torch.random.fork_rng(devices={x.device for x in _tensors((args, kwargs)) if x.is_cuda}):
        with torch.no_grad():
            expected = _tensors(network(*args, **kwargs))
        calls, repeated = _through_calls_only(network, layers, args, kwargs)
        if not all(map(_equal, expected, repeated)):
            raise TwinMismatchError(
                f"{type(network).__name__} gives other outputs when it is called again on the same inputs, in "
                "evaluation mode: it draws random numbers or keeps a state, which moments cannot follow"
            )
        twins_calls = _count_calls(twin, layers)
        with torch.no_grad():
            outputs = tree_flatten(functional_call(twin, state, args, kwargs), is_leaf=_is_moments)[0]
    _compare_calls(calls, twins_calls, layers)
    _compare_outputs(expected, outputs)


def _without_variance(network: nn.Module, twin: nn.Module) -> dict[str, Tensor]:
    """The twin's state at the network's weights, with sigmas of zero."""
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    state = {}
    for name, value in (*twin.named_parameters(), *twin.named_buffers()):
        if name.rpartition(".")[2] == FACTOR:  # of a variance that is zero
            continue
        random = name.endswith(RHO) and name.removesuffix(RHO) in held
        if not random and (name not in held or held[name].shape != value.shape):
            raise ValueError(
                f"the twin's {name!r} of shape {tuple(value.shape)} is not in the network; compare a twin with the "
                "network that to_bayesian was given"
            )
        state[name] = torch.full_like(value, _CERTAIN) if random else held[name].detach()
    return state


def _count_calls(network: nn.Module, layers: Iterable[str]) -> Counter[str]:
    calls: Counter[str] = Counter()
    for path in layers:
        network.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.update([path]))
    return calls


def _through_calls_only(
    network: nn.Module, layers: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Counter[str], list[Tensor]]:
    """Calls and outputs of a pass in which no gradient leaves a layer through its call, so that none may arrive."""
    calls = _count_calls(network, layers)
    weights: dict[str, Tensor] = {}
    for path in layers:
        layer = network.get_submodule(path)
        layer.register_forward_hook(lambda module, inputs, output: output.detach())
        weights.update({f"{path}.{name}" if path else name: value for name, value in layer.named_parameters()})
    for weight in weights.values():
        weight.requires_grad_()
    with torch.enable_grad():
        outputs = _tensors(network(*args, **kwargs))
        reached = [value.sum() for value in outputs if value.requires_grad]
    if reached:
        total = torch.stack([value.to(torch.float64) for value in reached]).sum()
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        astray = [name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None]
        if astray:
            raise TwinMismatchError(
                f"{astray[0]!r} reaches the outputs otherwise than through the call of its layer (a weight that the "
                "forward pass uses itself, or that is kept in a list); the twin would lose its variance there. Give "
                "each use a layer of its own"
            )
    return calls, [value.detach() for value in outputs]


def _compare_calls(calls: Counter[str], twins: Counter[str], layers: Iterable[str]) -> None:
    for path in layers:
        if calls[path] != twins[path]:
            raise TwinMismatchError(
                f"layer {path!r} is called {calls[path]} times by the network and {twins[path]} times by its twin: "
                "the forward pass takes another branch for Moments, or holds a function of the network it was made for"
            )
        if calls[path] > 1:
            raise TwinMismatchError(
                f"layer {path!r} is called {calls[path]} times in one pass, and moments treat the calls as "
                "independent, though they share their weights; give each call a layer of its own"
            )


def _compare_outputs(expected: list[Tensor], outputs: list[Any]) -> None:
    if not any(map(_is_moments, outputs)):
        raise TwinMismatchError("no output of the twin is Moments; the variance was lost on the way")
    if len(outputs) != len(expected):
        raise TwinMismatchError(f"the twin has {len(outputs)} outputs, its network {len(expected)}")
    for value, output in zip(expected, outputs, strict=True):
        mean = mean_of(output)
        if mean.shape != value.shape:
            raise TwinMismatchError(
                f"the twin's output has the shape {tuple(mean.shape)}, its network's {tuple(value.shape)}"
            )
        tolerance = max(TOLERANCE, torch.finfo(value.dtype).eps ** 0.5) if value.is_floating_point() else 0.0
        scale = float(value.abs().max()) if value.numel() else 0.0
        error = float((mean - value).abs().nan_to_num().max()) if value.numel() else 0.0
        if error > tolerance * scale or not torch.equal(mean.isnan(), value.isnan()):
            raise TwinMismatchError(
                f"at sigma = 0 the twin's outputs differ from its network's by up to {error:.2g}, where the largest "
                f"output is {scale:.2g}: an operation of the forward pass does something else with Moments (a branch "
                "on the type of its value, a hook that changes a value, a change in place under another name)"
            )


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


def _equal(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-5, atol=1e-8, equal_nan=True)


def _is_moments(leaf: Any) -> bool:
    return isinstance(leaf, Moments)
