"""`OfNetwork`: settings that name a data set and the network that is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from bayes_influence.arguments import checked_device, kind_of
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.imported import imported
from bayes_influence.data.own_function import OwnFunction
from bayes_influence.data.tables import Rows
from bayes_influence.experiments.store.fingerprint import fingerprint_of_builder
from bayes_influence.experiments.training.of_data import OfData
from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import seeded
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.resnet import ResNet
from bayes_influence.models.vgg import CONVOLUTIONS, VGG
from bayes_influence.training.usual_moments import usual_moments

SIZES = {"width": 32, "depth": 1}
"""What a network's size is when nothing is said."""

ACTIVATION = "tanh"
"""Of an MLP when nothing is said: smooth, so that all of its layers have minima to go to; and of the variance of a
table of 600 rows a Bayesian one with SELUs explains .38 and one with tanh .90 (on Iris, Wine, breast cancer and the
digits neither is better by much)."""

USUAL_SHAPE = (1, 32, 32)
"""Inputs that every one of `NETWORKS` takes."""

OWN = "own"
"""The name of the network that a data set brings along."""

NETWORKS: dict[str, tuple[str, ...]] = {
    "mlp": ("width", "depth"),
    "lenet": (),
    "resnet": ("width",),
    **{f"vgg{depth}": () for depth in CONVOLUTIONS},
}
"""Networks by name, and which sizes can be chosen."""


@dataclass(frozen=True)
class OfNetwork(OfData):
    """Settings that name a data set and a network.

    Attributes:
        network: A key of `NETWORKS`; `module:Class`, called without arguments; or `"own"`, the network that the
            data set's `module:function` returns.
        width: Units of an MLP's hidden layers, or channels of a residual network's first stage; 32 when not given.
        depth: Hidden layers of an MLP; 1 when not given.
        activation: A key of `ACTIVATIONS`; tanh in an MLP, of other networks their usual one, when not given.
        device: Where it is trained.
        code: Fingerprint of the code of a network of the user's own; a run is not continued with another.

    Raises:
        ValueError: If a setting is unknown or out of range, or the network's code is not what `code` says.
        TypeError: If the user's own network is none.
    """

    network: str = "mlp"
    width: int | None = field(default=None, kw_only=True)
    depth: int | None = field(default=None, kw_only=True)
    activation: str | None = field(default=None, kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    code: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":" not in self.network and self.network != OWN:
            self.check_known(network=NETWORKS)
        self.check_at_least(width=1, depth=0)
        for name in SIZES:
            if getattr(self, name) is not None and name not in self.chosen_sizes:
                having = ", ".join(network for network, sizes in NETWORKS.items() if name in sizes)
                raise ValueError(f"{self.network} has no {name} to choose; leave {name} out, or choose one of {having}")
        if self.activation is not None:
            activation_module(self.activation)
            if self.network not in NETWORKS:
                raise ValueError(f"{self.network} has no activation to choose; leave activation out")
        self._check_code()
        checked_device(self.device)

    @property
    def chosen_sizes(self) -> tuple[str, ...]:
        """Which sizes of the network can be chosen."""
        return NETWORKS.get(self.network, ())

    def usual_shape(self) -> dict[str, Any]:
        """Sizes of the network, and of an MLP its activation, when nothing is said."""
        sizes = {name: size for name, size in SIZES.items() if name in self.chosen_sizes}
        return sizes | ({"activation": ACTIVATION} if self.network == "mlp" else {})

    def said_shape(self) -> dict[str, Any]:
        """Sizes and activation of the network as they were said or, left unsaid, as they usually are."""
        usual = self.usual_shape()
        return {name: size if getattr(self, name) is None else getattr(self, name) for name, size in usual.items()}

    def _own_network(self) -> Callable[[], nn.Module] | None:
        """What builds the user's own network, None where it is one of `NETWORKS`."""
        if self.network in NETWORKS:
            return None
        if self.network != OWN:
            return imported(self.network)
        known = self.known()
        if not isinstance(known, OwnFunction):
            raise ValueError(f"{self.dataset} brings no network of its own; choose one of {', '.join(NETWORKS)}")
        return known.network

    def found_code(self) -> str | None:
        """The fingerprint of the user's own network, None where it is one of `NETWORKS`."""
        own = self._own_network()
        return None if own is None else fingerprint_of_builder(own)

    def _check_code(self) -> None:
        own = self._own_network()
        if own is None:
            return
        with seeded(0):
            network = self._built(own) if callable(own) else own
        if not callable(own) or isinstance(own, nn.Module) or not isinstance(network, nn.Module):
            raise TypeError(f"{self.network} must build a network, an nn.Module, at every call, got {kind_of(network)}")
        if self.code is not None and self.found_code() != self.code:
            raise ValueError(f"the code of the network {self.network} is not what the run was trained with; train anew")

    def _built(self, own: Callable[[], Any]) -> Any:
        """What the user's own code makes, or why it makes nothing."""
        try:
            return own()
        except Exception as error:
            raise ValueError(
                f"{self.network} builds no network when it is called without arguments, as it is here "
                f"({type(error).__name__}: {error}); give its arguments defaults, or name a function that builds it"
            ) from error

    def n_outputs(self, train: Dataset) -> int:
        """How many outputs a network for this task has.

        Raises:
            ValueError: If a class has a single member.
        """
        known = self.known()
        if known.task != "classification":
            return known.n_targets
        train.check_classes()
        return train.n_classes

    @cached_property
    def usual_moments(self) -> dict[str, str]:
        """As `usual_moments` says of this network and data; the network is built once for it."""
        return usual_moments(self.blueprint(), on_table=isinstance(self.known(), Rows))

    def blueprint(self) -> nn.Module:
        """A network of this kind, of which kinds and sizes of modules matter alone: for `USUAL_SHAPE`, two outputs."""
        own = self._own_network()
        with seeded(0):
            if own is not None:
                return own()
            with torch.device("meta"):
                return self.network_for(USUAL_SHAPE, 2)

    def network_for(self, input_shape: Sequence[int], n_outputs: int) -> nn.Module:
        """The deterministic network for inputs of this shape, its parameters drawn from the global generator."""
        own = self._own_network()
        if own is not None:
            return own()
        shape, options = tuple(input_shape), self.said_shape()
        if self.activation is not None:
            options["activation"] = self.activation
        if self.network == "mlp":
            return MLP(shape[0] if len(shape) == 1 else shape, n_outputs, **options)
        if len(shape) != 3:
            raise ValueError(
                f"{self.network} takes images (channels, height, width), but the inputs of {self.dataset} have shape "
                f"{shape}; choose network='mlp'"
            )
        if self.network == "lenet":
            return LeNet(n_outputs, shape, **options)
        if self.network == "resnet":
            return ResNet(n_outputs, shape, **options)
        return VGG(int(self.network.removeprefix("vgg")), n_outputs, shape, **options)
