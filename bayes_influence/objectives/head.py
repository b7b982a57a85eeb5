"""`Head`: the last layer alone, under the name that its parameters have in the whole network."""

from __future__ import annotations

from typing import Any

from torch import nn

from bayes_influence.objectives.parameters import Params


class Head(nn.Module):
    """A layer under the path that it has in its network, so that its parameters keep their names.

    Args:
        path: The path.
        layer: The layer.
        rest: Further parameters of the network, held for a regulariser that needs them all.
    """

    def __init__(self, path: str, layer: nn.Module, rest: Params) -> None:
        super().__init__()
        *parents, name = path.split(".")
        _holder(self, parents).add_module(name, layer)
        for full, value in rest.items():
            *parents, name = full.split(".")
            _holder(self, parents).register_parameter(name, nn.Parameter(value))
        self.path = path

    def forward(self, features: Any) -> Any:
        """Applies the layer."""
        return self.get_submodule(self.path)(features)


def layer_path(network: nn.Module) -> str:
    """Where the layer of a reduced network stands in it; nothing where the network is that layer itself."""
    return network.path if isinstance(network, Head) else ""


def _holder(root: nn.Module, parents: list[str]) -> nn.Module:
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    return root
