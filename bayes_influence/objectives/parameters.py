"""Named parameters, which of them influence is taken in, and their flat form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from bayes_influence.moments.layers import RHO

Params = dict[str, Tensor]
"""Detached parameters by name, as `torch.func.functional_call` takes them."""

SELECTIONS = ("all", "last-layer", "means", "last-layer-means")


def detached_params(network: nn.Module) -> Params:
    """The network's own parameters as a `Params`, sharing no storage with the module."""
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def last_layer_name(network: nn.Module) -> str:
    """Path of the last module, in registration order, that holds parameters itself.

    Raises:
        ValueError: If the network has no parameters.
    """
    owners = [path for path, module in network.named_modules() if list(module.parameters(recurse=False))]
    if not owners:
        raise ValueError(f"{type(network).__name__} has no parameters, so it has no last layer")
    return owners[-1]


def select_names(network: nn.Module, selection: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the parameters that a selection stands for, in the network's order.

    Args:
        network: The network whose parameters are meant.
        selection: `"all"`; `"last-layer"` (mean and variance parameters alike); `"means"` (everything but the
            variational `_rho`); `"last-layer-means"`; or the names themselves.

    Raises:
        ValueError: If the selection is unknown, a name does not exist, or nothing is selected.
    """
    names = [name for name, _ in network.named_parameters()]
    if not isinstance(selection, str):
        unknown = sorted(set(selection) - set(names))
        if unknown or not selection:
            raise ValueError(f"unknown parameters {unknown}; the network has {names}")
        return tuple(name for name in names if name in set(selection))
    if selection not in SELECTIONS:
        raise ValueError(
            f"unknown parameter selection {selection!r}; known: {', '.join(SELECTIONS)}, or a list of names"
        )
    if selection.startswith("last-layer"):
        path = last_layer_name(network)
        names = [name for name in names if name.rpartition(".")[0] == path]
    if selection.endswith("means"):
        names = [name for name in names if not name.endswith(RHO)]
    return tuple(names)


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

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each parameter."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
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


def stack_members(members: Sequence[Params]) -> Params:
    """Parameters of several networks of one architecture on a leading member axis E."""
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def member(stacked: Params, index: int) -> Params:
    """One network's parameters out of a stack."""
    return {name: value[index] for name, value in stacked.items()}
