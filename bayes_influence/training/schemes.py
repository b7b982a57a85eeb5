"""The named schemes: how a network is regularised, and which objective its training ends at.

A new regulariser is one class here and one line in `SCHEMES`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from bayes_influence.arguments import shown
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.moments.initial import relative_sigma
from bayes_influence.objectives.expected_likelihoods import ExtendedVI, TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay
from bayes_influence.training.averaging import SWAG
from bayes_influence.training.dropout import DROPOUT, with_dropout
from bayes_influence.training.effects import StepEffects, watch_step
from bayes_influence.training.priors import prior_scales
from bayes_influence.training.schedules import SWA
from bayes_influence.training.steps import StepValue, step_objective

WEIGHT_DECAY = 0.005
"""The papers' coupled weight decay (Epifano et al., the Iris study)."""

TEMPERED_KL = 0.1
"""Weight of the KL in `bnn-tempered`: a "cold" posterior (Wenzel et al. 2020), narrower than the Bayesian one. Chosen
on 5000 training images of MNIST held out for that, see docs/bayesian_training.md."""


MEMBERS_DIFFER_IN = ("name", "regulariser_weight", "averaging")
"""What members of one ensemble may differ in; averages are taken in one way, or not at all."""


@dataclass(frozen=True)
class Scheme(ABC):
    """How a deterministic network is turned into something trainable, and with which objective.

    Attributes:
        name: What tables, files and options call it.
        averaging: How the iterates are averaged, None to keep the last one.
        regulariser_weight: s in J = data + s R; members of one ensemble may differ in it.
    """

    name: str
    averaging: SWA | None = None
    regulariser_weight: float = 1.0

    @abstractmethod
    def prepare(self, network: nn.Module) -> nn.Module:
        """The network that is trained; the deterministic one is not changed."""

    @abstractmethod
    def objective(self, network: nn.Module, n_train: int, parameters: str | Sequence[str] = "all") -> Objective:
        """What is trained, linearised and retrained, for a prepared network and n training examples."""

    def shares_ensemble(self, other: Scheme) -> bool:
        """Whether both train as members of one ensemble: alike in class and in all that is stored in them.

        Members may differ in their name, in the regulariser's weight, and in whether (not in how) they average.
        """
        own, others = (
            {name: value for name, value in vars(scheme).items() if name not in MEMBERS_DIFFER_IN}
            for scheme in (self, other)
        )
        averages_alike = self.averaging is None or other.averaging is None or self.averaging == other.averaging
        return type(self) is type(other) and own == others and averages_alike

    @property
    def options(self) -> dict[str, Any]:
        """What can be set with `with_options`, and how it stands: every field that changes what is trained."""
        idle = {"name"}
        if self.averaging is None:
            idle.add("averaging")
        if not self.regularised:
            idle.add("regulariser_weight")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in idle}

    def with_options(self, **options: Any) -> Scheme:
        """The scheme with other numbers.

        Raises:
            ValueError: If the scheme has no such option; the message lists those that it has.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise ValueError(
                f"the scheme {self.name} has no option {', '.join(unknown)}; it has {', '.join(self.options) or 'none'}"
            )
        return replace(self, **options)

    def step(self, objective: Objective, n_train: int, held: Collection[str] = ()) -> StepValue:
        """What a training step in minibatches minimises: the objective itself, its network in training mode.

        Args:
            objective: Of a prepared network.
            n_train: n, how many training examples there are.
            held: Buffers that training leaves as they are.
        """
        return step_objective(objective, held)

    def effects(self, objective: Objective, train: Dataset, held: Collection[str] = ()) -> StepEffects:
        """What a training step on all examples does, seen by doing it where the objective stands, see `watch_step`.

        Raises:
            ValueError: If a step cannot be repeated.
        """
        return watch_step(self.step(objective, len(train), held), objective, objective.fitting(train.batch()))

    @property
    def regularised(self) -> bool:
        """Whether the objective has a regulariser, and so a minimum at finite parameters."""
        return self.regulariser_weight > 0


@dataclass(frozen=True)
class Deterministic(Scheme):
    """Cross-entropy with or without weight decay, with or without SWA.

    Attributes:
        weight_decay: lambda in (lambda/2) ||theta||^2; the regulariser's weight says whether it applies.
    """

    weight_decay: float = WEIGHT_DECAY

    @property
    def options(self) -> dict[str, Any]:
        """As of every scheme; lambda only where it applies."""
        every = super().options
        return every if self.regularised else {name: value for name, value in every.items() if name != "weight_decay"}

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network itself."""
        return network

    def objective(self, network: nn.Module, n_train: int, parameters: str | Sequence[str] = "all") -> Objective:
        """Cross-entropy plus weight decay."""
        return Objective(network, CrossEntropy(), WeightDecay(self.weight_decay), self.regulariser_weight, parameters)


@dataclass(frozen=True)
class Dropout(Deterministic):
    """Dropout while training (Srivastava et al. 2014); estimates and refits are in evaluation mode, without it.

    Attributes:
        probability: p of dropping an input of a fully connected layer, see `with_dropout`.
    """

    probability: float = DROPOUT

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network with dropout in front of its fully connected layers."""
        return with_dropout(network, self.probability)


@dataclass(frozen=True)
class Variational(Scheme):
    """A Bayesian network with propagated moments: an expected log-likelihood and the KL to the prior.

    Attributes:
        likelihood: Per-example losses of the propagated logits.
        prior_scale: s, the scale of the prior's standard deviations.
        prior: `"isotropic"` for s everywhere, `"fan-in"` for s / sqrt(fan-in) in each layer, see `prior_scales`.
        method: How moments pass the activations, see `to_bayesian`.
        initial_sigma: sigma sqrt(fan-in) at the start; `to_bayesian`'s default when not given.
        relative_sigma: sigma / |w| at the start instead (clamped), for a start from a trained network.
    """

    likelihood: Likelihood = TiltedCategorical()  # noqa: RUF009 - frozen and without state
    prior_scale: float = 1.0
    prior: str = "isotropic"
    method: str = "first-order"
    initial_sigma: float | None = None
    relative_sigma: float | None = None

    def prepare(self, network: nn.Module) -> nn.Module:
        """The moment-propagating twin, its means at the network's weights."""
        sigma = self.initial_sigma if self.relative_sigma is None else relative_sigma(self.relative_sigma)
        return to_bayesian(network, method=self.method, initial_sigma=sigma)

    def objective(self, network: nn.Module, n_train: int, parameters: str | Sequence[str] = "all") -> Objective:
        """The negative ELBO divided by n."""
        regulariser = GaussianKL(n_train, prior_scales(network, self.prior_scale, self.prior))
        return Objective(network, self.likelihood, regulariser, self.regulariser_weight, parameters)


@dataclass(frozen=True)
class MeanFieldVI(Variational):
    """The same Gaussian posterior, trained by sampling its weights: Pyro's SVI with `AutoNormal`, see `to_pyro`.

    Means and log standard deviations are those of the moment-propagating twin, in which they are then linearised,
    refitted and used for predictions.
    """

    def step(self, objective: Objective, n_train: int, held: Collection[str] = ()) -> StepValue:
        """Pyro's estimate of the negative ELBO divided by n, from one draw of the weights."""
        from bayes_influence.training.pyro_models import svi_step

        return svi_step(objective, n_train)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Deterministic("none", regulariser_weight=0.0),
        Deterministic("weight-decay"),
        Deterministic("swa", averaging=SWA(), regulariser_weight=0.0),
        Deterministic("weight-decay+swa", averaging=SWA()),
        Deterministic("swag", averaging=SWAG(), regulariser_weight=0.0),
        Dropout("dropout", regulariser_weight=0.0),
        Variational("bnn"),
        Variational("bnn-tempered", regulariser_weight=TEMPERED_KL),
        Variational("bnn-evi", likelihood=ExtendedVI()),
        MeanFieldVI("mean-field-vi"),
    )
}
"""Every scheme by name."""

DEFAULT_SCHEMES = ("none", "weight-decay", "swa", "weight-decay+swa", "bnn")
"""The five that the papers compare."""


def ensembles(schemes: Sequence[Scheme]) -> list[list[Scheme]]:
    """The schemes, grouped by the ensemble that they train in."""
    groups: list[list[Scheme]] = []
    for scheme in schemes:
        group = next((group for group in groups if all(scheme.shares_ensemble(other) for other in group)), None)
        if group is None:
            groups.append([scheme])
        else:
            group.append(scheme)
    return groups


def find_schemes(names: Sequence[str]) -> list[Scheme]:
    """The schemes with these names.

    Raises:
        TypeError: If this is no list of names.
        ValueError: If a name is unknown or named twice, or there is none.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"schemes are asked for by a list of names, such as ['bnn'], got {shown(names)}")
    unknown = [name for name in names if name not in SCHEMES]
    if unknown or not names:
        raise ValueError(f"unknown scheme {', '.join(unknown) or '(none given)'}; known: {', '.join(SCHEMES)}")
    if len(set(names)) != len(names):
        raise ValueError(f"each scheme once, got {', '.join(names)}")
    return [SCHEMES[name] for name in names]


def check_schemes(schemes: object) -> None:
    """Refuses what is no list of different schemes.

    Raises:
        TypeError: If it is something else, such as their names.
        ValueError: If there is none, or two have one name.
    """
    if not isinstance(schemes, Sequence) or not all(isinstance(scheme, Scheme) for scheme in schemes):
        raise TypeError(f"schemes must be a list of them, such as find_schemes(['bnn']), got {shown(schemes)}")
    names = [scheme.name for scheme in schemes]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"schemes must be one or more of different names, got {names}")


def check_builder(make_network: object) -> None:
    """Refuses what is no function that builds a network, a network itself among it.

    Raises:
        TypeError: If it is something else, or needs arguments.
    """
    advice = "pass a function without arguments, e.g. lambda: MLP(4, 3)"
    if isinstance(make_network, nn.Module):
        kind = type(make_network).__name__
        raise TypeError(f"make_network must build a new network at every call, got a {kind} itself; {advice}")
    if not callable(make_network):
        raise TypeError(f"make_network must build a new network at every call, got {shown(make_network)}; {advice}")
    try:
        inspect.signature(make_network).bind()
    except TypeError:
        name = getattr(make_network, "__name__", repr(make_network))
        raise TypeError(f"make_network is called without arguments, but {name} needs some; {advice}") from None
    except ValueError:  # a builtin that does not say what it takes
        return
