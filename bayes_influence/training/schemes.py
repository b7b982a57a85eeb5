"""The named schemes: how a network is regularised, and which objective its training ends at.

A new regulariser is one class here and one line in `SCHEMES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import ExtendedVI, TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay
from bayes_influence.training.schedules import SWA

WEIGHT_DECAY = 0.005
"""The papers' coupled weight decay (Epifano et al., the Iris study)."""


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
    def objective(self, network: nn.Module, n_train: int, selection: str | Sequence[str] = "all") -> Objective:
        """What is trained, linearised and retrained, for a prepared network and n training examples."""

    @property
    @abstractmethod
    def family(self) -> str:
        """Schemes of one family differ in numbers only, and train as members of one ensemble."""

    @property
    def regularised(self) -> bool:
        """Whether the objective has a regulariser, and so a minimum at finite parameters."""
        return self.regulariser_weight > 0


@dataclass(frozen=True)
class Deterministic(Scheme):
    """Cross-entropy with or without weight decay, with or without SWA.

    Attributes:
        decay: lambda of the weight decay (lambda/2) ||theta||^2; the regulariser's weight says whether it applies.
    """

    decay: float = WEIGHT_DECAY

    @property
    def family(self) -> str:
        """Deterministic networks that share their lambda."""
        return f"deterministic-{self.decay:g}"

    def prepare(self, network: nn.Module) -> nn.Module:
        """The network itself."""
        return network

    def objective(self, network: nn.Module, n_train: int, selection: str | Sequence[str] = "all") -> Objective:
        """Cross-entropy plus weight decay."""
        return Objective(network, CrossEntropy(), WeightDecay(self.decay), self.regulariser_weight, selection)


@dataclass(frozen=True)
class Variational(Scheme):
    """A Bayesian network with propagated moments: an expected log-likelihood and the KL to the prior.

    Attributes:
        likelihood: Per-example losses of the propagated logits.
        prior_scale: Standard deviation of every weight and bias under the prior.
        method: How moments pass the activations, see `to_bayesian`.
    """

    likelihood: Likelihood = TiltedCategorical()  # noqa: RUF009 - frozen and without state
    prior_scale: float = 1.0
    method: str = "first-order"

    @property
    def family(self) -> str:
        """Bayesian networks of one likelihood, prior and propagation."""
        return f"variational-{self.likelihood}-{self.prior_scale:g}-{self.method}"

    def prepare(self, network: nn.Module) -> nn.Module:
        """The moment-propagating twin."""
        return to_bayesian(network, method=self.method)

    def objective(self, network: nn.Module, n_train: int, selection: str | Sequence[str] = "all") -> Objective:
        """The negative ELBO divided by n."""
        regulariser = GaussianKL(n_train, self.prior_scale)
        return Objective(network, self.likelihood, regulariser, self.regulariser_weight, selection)


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Deterministic("none", regulariser_weight=0.0),
        Deterministic("weight-decay"),
        Deterministic("swa", averaging=SWA(), regulariser_weight=0.0),
        Deterministic("weight-decay+swa", averaging=SWA()),
        Variational("bnn"),
        Variational("bnn-evi", likelihood=ExtendedVI()),
    )
}
"""Every scheme by name."""

DEFAULT_SCHEMES = ("none", "weight-decay", "swa", "weight-decay+swa", "bnn")
"""The five that the papers compare."""


def find_schemes(names: Sequence[str]) -> list[Scheme]:
    """The schemes with these names.

    Raises:
        ValueError: If a name is unknown or named twice, or there is none.
    """
    unknown = [name for name in names if name not in SCHEMES]
    if unknown or not names:
        raise ValueError(f"unknown scheme {', '.join(unknown) or '(none given)'}; known: {', '.join(SCHEMES)}")
    if len(set(names)) != len(names):
        raise ValueError(f"each scheme once, got {', '.join(names)}")
    return [SCHEMES[name] for name in names]
