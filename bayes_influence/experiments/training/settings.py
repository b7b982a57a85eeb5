"""Settings of a training run: data, network, scheme and schedule, and what they are when nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayes_influence.arguments import checked_device, kind_of
from bayes_influence.data.dataset import Split
from bayes_influence.data.imported import imported
from bayes_influence.data.own_function import OwnFunction
from bayes_influence.experiments.store.fingerprint import fingerprint_of_builder
from bayes_influence.experiments.training.of_data import OfData
from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import seeded
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.resnet import ResNet
from bayes_influence.models.vgg import CONVOLUTIONS, VGG
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import OPTIMISERS
from bayes_influence.training.priors import RELATIVE_SIGMA
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import find_schemes

LEARNING_RATE = 2e-3
"""Of deterministic networks."""

BAYESIAN_LEARNING_RATE = 5e-3
"""Of Bayesian networks. Adam moves log sigma by the learning rate per step at most, and it has units to go."""

SCHEME_OPTIONS = {"prior": "fan-in", "initial_sigma": 0.2}
"""Numbers of a scheme that a run has others of when nothing is said. sigma sqrt(fan-in) at the start of a Bayesian
network: from a smaller one the KL, which only log sigma's slow way to the prior's scale takes down, dominates a
training of a few epochs."""

SIZES = {"width": 32, "depth": 1}
"""What a network's size is when nothing is said."""

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
class TrainRun(OfData):
    """Everything that a training run depends on.

    Attributes:
        network: A key of `NETWORKS`; `module:Class`, called without arguments; or `"own"`, the network that the
            data set's `module:function` returns.
        scheme: A key of `SCHEMES`.
        seeds: One network each: of its initial parameters, its order of examples, its dropout masks.
        epochs: Passes over the training examples; the data set's own when not given.
        batch_size: Examples in a batch, at most; the data set's own when not given.
        learning_rate: At its highest; 0.002, and 0.005 for Bayesian networks, when not given.
        optimiser: A key of `OPTIMISERS`.
        decay: Of the learning rate, see `MinibatchSchedule`.
        annealing: Fraction of the steps over which the regulariser's weight rises to its own.
        clip: Longest gradient that is followed at its length.
        width: Units of an MLP's hidden layers, or channels of a residual network's first stage; 32 when not given.
        depth: Hidden layers of an MLP; 1 when not given.
        activation: A key of `ACTIVATIONS`; the network's usual one when not given.
        scheme_options: Numbers and words of the scheme that are to be others than its own, by field; of Bayesian
            networks the prior is by fan-in and sigma sqrt(fan-in) starts at 0.2 when nothing is said.
        warm_start: Folder of another run of the same network whose parameters this one starts from; sigma then starts
            at `RELATIVE_SIGMA` |w| instead.
        train_examples: How many of the training examples are used, the first ones; all when not given.
        dtype: `"float32"` or `"float64"`.
        device: Where it is trained.
        code: Fingerprint of the code of a network of the user's own; a run is not continued with another.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    dataset: str = "mnist"
    network: str = "lenet"
    scheme: str = "bnn"
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimiser: str = "adam"
    decay: str = "cosine"
    annealing: float = 0.0
    clip: float | None = None
    width: int | None = None
    depth: int | None = None
    activation: str | None = None
    scheme_options: dict[str, Any] = field(default_factory=dict)
    warm_start: str | None = None
    train_examples: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    code: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if ":" not in self.network and self.network != OWN:
            self.check_known(network=NETWORKS)
        self.check_known(
            optimiser=OPTIMISERS,
            dtype=("float32", "float64"),
        )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers from 0 on, got {self.seeds}")
        self.check_at_least(train_examples=1, width=1, depth=0)
        for name in SIZES:
            if getattr(self, name) is not None and name not in self._sizes:
                having = ", ".join(network for network, sizes in NETWORKS.items() if name in sizes)
                raise ValueError(f"{self.network} has no {name} to choose; leave {name} out, or choose one of {having}")
        if self.activation is not None:
            activation_module(self.activation)
        self.resolved_scheme()
        self._check_code()
        self.schedule()
        checked_device(self.device)

    @property
    def _sizes(self) -> tuple[str, ...]:
        """Which sizes of the network can be chosen."""
        return NETWORKS.get(self.network, ())

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

    def _found_code(self) -> str | None:
        """The fingerprint of the user's own network, None where it is one of `NETWORKS`."""
        own = self._own_network()
        return None if own is None else fingerprint_of_builder(own)

    def _check_code(self) -> None:
        own = self._own_network()
        if own is None:
            return
        with seeded(0):
            network = own() if callable(own) else own
        if not callable(own) or isinstance(own, nn.Module) or not isinstance(network, nn.Module):
            raise TypeError(f"{self.network} must build a network, an nn.Module, at every call, got {kind_of(network)}")
        if self.code is not None and self._found_code() != self.code:
            raise ValueError(f"the code of the network {self.network} is not what the run was trained with; train anew")

    def _said(self) -> dict[str, Any]:
        """Schedule and sizes as they were said or, left unsaid, as data, network and scheme have them."""
        bayesian, known = self.resolved_scheme().bayesian, self.known()
        defaults = {
            "epochs": known.epochs,
            "batch_size": known.batch_size,
            "learning_rate": BAYESIAN_LEARNING_RATE if bayesian else LEARNING_RATE,
            **{name: size for name, size in SIZES.items() if name in self._sizes},
        }
        said = {name: getattr(self, name) for name in defaults}
        return {name: default if said[name] is None else said[name] for name, default in defaults.items()}

    def resolved(self) -> TrainRun:
        """The same run with nothing left unsaid about its schedule, its network's size and its scheme's numbers."""
        options = self.resolved_scheme().options
        numbers = {name: value for name, value in options.items() if isinstance(value, float | str)}
        found = self._said() | self.found_data() | {"code": self._found_code()}
        return replace(self, **found, scheme_options=numbers | self.scheme_options)

    def to_config(self) -> dict[str, Any]:
        """Everything needed to repeat the run, as JSON can hold it; what was left unsaid is said."""
        return asdict(self.resolved())

    def schedule(self) -> MinibatchSchedule:
        """Epochs, batches and learning rates."""
        said = self._said()
        return MinibatchSchedule(
            said["epochs"],
            said["batch_size"],
            said["learning_rate"],
            OPTIMISERS[self.optimiser],
            self.decay,
            annealing=self.annealing,
            clip=self.clip,
        )

    def resolved_scheme(self) -> Scheme:
        """The scheme with this run's numbers."""
        (scheme,) = find_schemes([self.scheme])
        known = self.known()
        usual = SCHEME_OPTIONS if self.warm_start is None else SCHEME_OPTIONS | {"relative_sigma": RELATIVE_SIGMA}
        found = find_schemes([self.scheme], scheme.own(usual) | self.scheme_options)[0]
        return found if known.task == "classification" else found.suited(known.task, known.n_targets)

    def split(self, data_folder: str | Path | None = None) -> Split:
        """Training and test examples, standardised on the former: tables by feature, images by channel.

        Args:
            data_folder: Where data sets are kept, see `Source.contents`.

        Raises:
            ValueError: If there are fewer training examples than are to be used.
        """
        split = self.known().split(getattr(torch, self.dtype), data_folder)
        train = split.train
        if self.train_examples is not None:
            if self.train_examples > len(train):
                raise ValueError(
                    f"train_examples must lie in 1..{len(train)}, the number of training examples of {self.dataset}, "
                    f"got {self.train_examples}; leave it out to use all"
                )
            train = train.select(range(self.train_examples))
        return Split(train.to(self.device), split.test.to(self.device))

    def make_network(self, input_shape: Sequence[int], n_outputs: int) -> nn.Module:
        """The deterministic network for inputs of this shape, its parameters drawn from the global generator."""
        own = self._own_network()
        if own is not None:
            return own()
        said, shape = self._said(), tuple(input_shape)
        options = {name: said[name] for name in self._sizes}
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
