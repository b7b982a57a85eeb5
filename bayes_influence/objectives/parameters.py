"""Named parameters, which of them influence is taken in, and their flat form."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from bayes_influence.arguments import shown
from bayes_influence.data.arguments import as_call
from bayes_influence.models.ensemble import NetworkEnsemble
from bayes_influence.moments.layers import RHO
from bayes_influence.objectives.hidden import aliases, as_view_of, unregistered_tensors
from bayes_influence.objectives.layers import IN_WORDS, is_layer
from bayes_influence.torch_internals import get_unwrapped, is_functorch_wrapped_tensor, tree_map

Params = dict[str, Tensor]
"""Detached parameters by name, as `torch.func.functional_call` takes them."""

GROUPS = ("all", "layers", "last-layer", "means", "last-layer-means")
"""The words that stand for several parameters."""


def detached_params(network: nn.Module) -> Params:
    """The network's own parameters as a `Params`, sharing no storage with the module."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def detached_buffers(network: nn.Module) -> Params:
    """The network's own buffers, sharing no storage with the module."""
    return {name: value.detach().clone() for name, value in network.named_buffers()}


def moved_like(tensors: Any, like: Tensor) -> Any:
    """A nesting of tensors on the device of a parameter, real ones in its dtype."""
    return tree_map(
        lambda leaf: leaf.to(device=like.device, dtype=like.dtype if leaf.is_floating_point() else None), tensors
    )


def check_not_scripted(network: nn.Module) -> None:
    """Refuses layers of torch.jit, which cannot be called with other parameters than their own.

    Raises:
        TypeError: If there is one.
    """
    for path, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            what = f"its {path!r}" if path else "it"
            raise TypeError(
                f"an objective calls its network with other parameters, which a module of torch.jit does not take, and "
                f"{what} is one ({type(module).__name__}); pass the module that was scripted or traced"
            )


def owners_of_parameters(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold parameters themselves, by path, in the order of their registration.

    Raises:
        ValueError: If the network has no parameters.
    """
    owners = {path: module for path, module in network.named_modules() if list(module.parameters(recurse=False))}
    if not owners:
        raise ValueError(
            f"{type(network).__name__} has no parameters, so it has no last layer; give the network that was trained"
        )
    return owners


def called_last(network: nn.Module, inputs: Any) -> str:
    """Path of the module with parameters of its own whose call begins last, in one forward pass.

    Raises:
        ValueError: If the network has no parameters, or calls none of the modules that hold them.
    """
    calls: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: calls.append(path))
        for path, module in owners_of_parameters(network).items()
    ]
    try:
        args, kwargs = as_call(inputs)
        network(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    if not calls:
        raise ValueError(
            f"{type(network).__name__} calls none of its layers as a module, so it has no last layer; name parameters"
        )
    return calls[-1]


def select_names(network: nn.Module, parameters: str | Sequence[str], last_layer: str | None = None) -> tuple[str, ...]:
    """Names of the parameters that are meant, in the network's order.

    The words leave out parameters that are frozen (`requires_grad=False`); naming one takes it.

    Args:
        network: The network whose parameters are meant.
        parameters: `"all"`; `"layers"`, those of linear and convolutional layers (see `is_layer`), without embeddings,
            norms and what is shared with one of these; `"last-layer"` (mean and variance parameters alike; of every
            member of a `NetworkEnsemble`); `"means"` (everything but the variational `_rho`); `"last-layer-means"`; or
            the names themselves.
        last_layer: Path of the last layer; the last that is registered when not given, see `Objective.resolved`.

    Raises:
        TypeError: If this is neither a word nor names.
        ValueError: If the word is unknown, a name does not exist, or nothing is left.
    """
    names = [name for name, _ in network.named_parameters()]
    if not isinstance(parameters, str):
        if not isinstance(parameters, Sequence) or not all(isinstance(name, str) for name in parameters):
            raise TypeError(
                f"parameters must be one of {', '.join(GROUPS)}, or a list of names, got {shown(parameters)}"
            )
        unknown = sorted(set(parameters) - set(names))
        if unknown:
            raise ValueError(f"unknown parameters {unknown}; the network has {names}")
        if not parameters:
            raise ValueError(f"parameters names no parameter; choose from {names}, or one of {', '.join(GROUPS)}")
        return tuple(name for name in names if name in set(parameters))
    if parameters not in GROUPS:
        raise ValueError(f"unknown parameters {parameters!r}; known: {', '.join(GROUPS)}, or a list of names")
    if parameters.startswith("last-layer"):
        path = list(owners_of_parameters(network))[-1] if last_layer is None else last_layer
        paths = network.counterparts(path) if isinstance(network, NetworkEnsemble) else [path]
        # By identity: a weight that is shared with an earlier layer has that layer's name.
        own = {id(value) for path in paths for value in network.get_submodule(path).parameters(recurse=False)}
        names = [name for name, value in network.named_parameters() if id(value) in own]
    if parameters == "layers":
        names = [name for name in names if is_layer(network.get_submodule(name.rpartition(".")[0]))]
    if parameters.endswith("means"):
        names = [name for name in names if not name.endswith(RHO)]
    free = [name for name, value in network.named_parameters() if value.requires_grad]
    if not (taken := tuple(name for name in names if name in set(free))):
        if not names and parameters == "layers":
            raise ValueError(f"parameters={parameters!r} leaves nothing: no module is one of {IN_WORDS}")
        raise ValueError(f"parameters={parameters!r} leaves nothing: {names} are frozen (requires_grad=False)")
    return taken


def check_tensors_by_name(**named: Any) -> None:
    """Refuses what is no mapping of names to tensors.

    Args:
        **named: Values by the names of their arguments.

    Raises:
        TypeError: If one is something else.
    """
    for what, tensors in named.items():
        if not (isinstance(tensors, Mapping) and all(isinstance(value, Tensor) for value in tensors.values())):
            raise TypeError(f"{what} must be tensors by name, got {shown(tensors)}; leave it out for the network's own")


@dataclass(frozen=True)
class Flattening:
    """The fixed order in which named parameters are laid end to end in a vector of length P."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, params: Mapping[str, Tensor], names: Sequence[str] | None = None) -> Flattening:
        """The layout of `params`, or of the named ones only."""
        names = tuple(params) if names is None else tuple(names)
        return cls(names, tuple(params[name].shape for name in names))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter."""
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def total(self) -> int:
        """P, the length of the flat vector."""
        return sum(self.sizes)

    def flatten(self, params: Mapping[str, Tensor]) -> Shaped[Tensor, "*lead P"]:
        """Lays the named parameters end to end; leading ensemble axes beyond the layout's shapes are kept."""
        lead = params[self.names[0]].shape[: params[self.names[0]].ndim - len(self.shapes[0])]
        return torch.cat([params[name].reshape(*lead, -1) for name in self.names], dim=-1)

    def unflatten(self, flat: Shaped[Tensor, "*lead P"]) -> Params:
        """The inverse of `flatten`: views into `flat`, one per parameter."""
        pieces = flat.split(self.sizes, dim=-1)
        return {
            name: piece.view((*flat.shape[:-1], *shape))
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }


def same_memory(one: Params, other: Params) -> bool:
    """Whether these are the very numbers: what a network holds of one, it holds of the other."""
    return all(
        value.data_ptr() == other[name].data_ptr()
        and value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and value.stride() == other[name].stride()
        for name, value in one.items()
    )


def check_shapes(what: str, given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are not shaped as the network's own.

    Args:
        what: What they are.
        given: By name.
        own: The network's.

    Raises:
        ValueError: Naming the first one.
    """
    wrong = [name for name, value in given.items() if value.shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"{what} {wrong[0]!r} must have shape {tuple(own[wrong[0]].shape)}, got {tuple(given[wrong[0]].shape)}; "
            "take one member out of a stack with `Members.at`"
        )


def check_devices(tensors: Mapping[str, Tensor]) -> None:
    """Refuses a network that stands on several devices, or on none.

    Args:
        tensors: Its parameters and buffers.

    Raises:
        ValueError: Naming the devices, or the first tensor without values.
    """
    if (empty := next((name for name, value in tensors.items() if value.is_meta), None)) is not None:
        raise ValueError(f"{empty!r} of the network has no values, it is on the meta device; load its weights first")
    if len(devices := sorted({str(value.device) for value in tensors.values()})) > 1:
        raise ValueError(
            f"the network stands on {' and '.join(devices)}; bring it to one device first: network.to({devices[0]!r})"
        )


def state_of(network: nn.Module, params: Params, buffers: Params) -> tuple[Params, Params]:
    """Parameters and buffers of a network: those that are given, and else its own.

    Args:
        network: Any.
        params: All of its parameters, or none.
        buffers: Some of its buffers, or none.

    Raises:
        TypeError: If these are no tensors by name.
        ValueError: If they are not the network's, of another shape, or on several devices.
    """
    check_tensors_by_name(params=params, buffers=buffers)
    own, held = dict(network.named_parameters()), detached_buffers(network)
    if not params:
        params = detached_params(network)
    if set(params) != set(own):
        raise ValueError(f"params must name the network's parameters {sorted(own)}, got {sorted(params)}")
    check_shapes("parameter", params, own)
    if unknown := sorted(set(buffers) - set(held)):
        raise ValueError(f"buffers must name the network's buffers {sorted(held)}, got {unknown}")
    check_shapes("buffer", buffers, held)
    buffers = {**held, **buffers}
    check_devices({**params, **buffers})
    return params, buffers


def _plain(value: Tensor) -> Tensor:
    """What a tensor of a transformation holds, an axis of each `vmap` in front; others as they are."""
    return _plain(get_unwrapped(value)) if is_functorch_wrapped_tensor(value) else value


def standing_at(network: nn.Module, params: Params, buffers: Params) -> nn.Module:
    """A copy of the network in evaluation mode that holds these very tensors."""
    memo: dict[int, Any] = {}
    for name, parameter in network.named_parameters():
        memo[id(parameter)] = nn.Parameter(params[name], requires_grad=parameter.requires_grad)
    for name, buffer in network.named_buffers():
        memo[id(buffer)] = buffers[name]
    for module in network.modules():
        # Tensors that are computed from parameters (weight norm's) are made anew in every call, but cannot be copied;
        # nor can what a layer kept from inside a transformation (a recurrent one's weights).
        for _, value in unregistered_tensors(module):
            if is_functorch_wrapped_tensor(value) or not value.is_leaf:
                memo[id(value)] = _plain(value).detach().clone()
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for value, name in aliases(network).values():
        memo[id(value)] = as_view_of(value, own[name], {**params, **buffers}[name])
    return copy.deepcopy(network, memo).eval()
