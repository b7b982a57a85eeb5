"""The named schemes: how a network is regularised, and which objective its training ends at.

A new regulariser is one class and one line in `SCHEMES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from bayes_influence.arguments import shown
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.moments.initial import relative_sigma
from bayes_influence.moments.moments import Method, Structure
from bayes_influence.objectives.expected_likelihoods import (
    ExpectedBernoulli,
    ExpectedGaussian,
    ExtendedVI,
    TiltedCategorical,
    as_likelihood,
)
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.regularisers import GaussianKL
from bayes_influence.training.averaging import SWAG
from bayes_influence.training.deterministic import DeepEnsemble, Deterministic, Dropout, Laplace
from bayes_influence.training.ivon import IVON
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.noise import LearnedNoise
from bayes_influence.training.priors import Prior, prior_scales
from bayes_influence.training.schedules import SWA
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.steps import StepValue

TEMPERED_KL = 0.1
"""Weight of the KL in `bnn-tempered`: a "cold" posterior (Wenzel et al. 2020), narrower than the Bayesian one. Chosen
on 5000 training images of MNIST held out for that, see docs/bayesian_training.md."""


@dataclass(frozen=True)
class Variational(Scheme):
    """A Bayesian network with propagated moments: an expected log-likelihood and the KL to the prior.

    Attributes:
        likelihood: Per-example losses of the propagated logits, or the name of one in `LIKELIHOODS`.
        prior_scale: s, the scale of the prior's standard deviations.
        prior: `"isotropic"` for s everywhere, `"fan-in"` for s / sqrt(fan-in) in each layer, see `prior_scales`.
        method: How moments pass the activations: first-order, exact or gauss-hermite, see `to_bayesian`. Trainings in
            minibatches take exact ones of networks of images when nothing is said, see `usual_moments`.
        structure: What of the covariance between activations is taken in: diagonal, calibrated, covariance or
            calibrated-covariance. Such trainings take the last one behind convolutions, covariance in an MLP, and
            calibrated of wide layers and of tokens.
        initial_sigma: sigma sqrt(fan-in) at the start; `to_bayesian`'s default when not given.
        relative_sigma: sigma / |w| at the start instead (clamped), for a start from a trained network.
        learned_noise: Real targets whose noise the network carries as parameters, see `LearnedNoise`.
    """

    likelihood: Likelihood | str = TiltedCategorical()  # noqa: RUF009 - frozen and without state
    prior_scale: float = 1.0
    prior: Prior = "isotropic"
    method: Method = "first-order"
    structure: Structure = "diagonal"
    initial_sigma: float | None = None
    relative_sigma: float | None = None
    learned_noise: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("prior_scale", "initial_sigma", "relative_sigma")
        if not self.regularised:
            raise ValueError(
                f"regulariser_weight of the scheme {self.name} must be positive, got {self.regulariser_weight}: "
                "without a KL nothing holds the variances up"
            )
        object.__setattr__(self, "likelihood", as_likelihood(self.likelihood))

    @property
    def options(self) -> dict[str, Any]:
        """As of every scheme; which targets there are is no choice."""
        return {name: value for name, value in super().options.items() if name != "learned_noise"}

    @property
    def bayesian(self) -> bool:
        """Means and variances are trained."""
        return True

    def suited(self, task: str, n_targets: int = 1) -> Scheme:
        """With the scheme's own likelihood of classes, `ExpectedBernoulli`, or `ExpectedGaussian` and learned noise.

        Raises:
            ValueError: If the scheme's own likelihood is another one than `TiltedCategorical`: it is for classes.
        """
        if task == "classification":
            return self
        if self.likelihood != TiltedCategorical():
            raise ValueError(
                f"the scheme {self.name} has the likelihood {type(self.likelihood).__name__}, which is for classes, "
                f"but the data are for {task}; take bnn, and say no likelihood"
            )
        if task == "labels":
            return replace(self, likelihood=ExpectedBernoulli())
        return replace(self, likelihood=ExpectedGaussian(None), learned_noise=n_targets)

    def prepare(self, network: nn.Module) -> nn.Module:
        """The moment-propagating twin, its means at the network's weights; with its noise, where that is learned."""
        sigma = self.initial_sigma if self.relative_sigma is None else relative_sigma(self.relative_sigma)
        twin = to_bayesian(network, method=self.method, structure=self.structure, initial_sigma=sigma)
        return LearnedNoise(twin, self.learned_noise) if self.learned_noise else twin

    def objective(self, network: nn.Module, n_train: int, parameters: str | Sequence[str] = "all") -> Objective:
        """The negative ELBO divided by n."""
        regulariser = GaussianKL(n_train, prior_scales(network, self.prior_scale, self.prior))
        return Objective(network, as_likelihood(self.likelihood), regulariser, self.regulariser_weight, parameters)


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


@dataclass(frozen=True)
class OnlineNewton(MeanFieldVI):
    """The same Gaussian posterior and estimate, its means and precisions trained by natural gradients, see `IVON`.

    Attributes:
        mean_scale: The rate of the means, in learning rates.
        hessian_scale: That of the precisions, likewise.
    """

    mean_scale: float = IVON.mean_scale
    hessian_scale: float = IVON.hessian_scale

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("mean_scale", "hessian_scale")

    def scheduled(self, schedule: MinibatchSchedule) -> MinibatchSchedule:
        """The schedule with the scheme's own optimiser."""
        return replace(schedule, optimiser=IVON(mean_scale=self.mean_scale, hessian_scale=self.hessian_scale))


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Deterministic("none", regulariser_weight=0.0),
        Deterministic("weight-decay"),
        Deterministic("swa", averaging=SWA(), regulariser_weight=0.0),
        Deterministic("weight-decay+swa", averaging=SWA()),
        Deterministic("swag", averaging=SWAG(), regulariser_weight=0.0),
        Dropout("dropout", regulariser_weight=0.0),
        Laplace("laplace"),
        DeepEnsemble("deep-ensemble"),
        Variational("bnn"),
        Variational("bnn-tempered", regulariser_weight=TEMPERED_KL),
        Variational("bnn-evi", likelihood=ExtendedVI()),
        MeanFieldVI("mean-field-vi"),
        OnlineNewton("ivon"),
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


def find_schemes(names: Sequence[str], options: Mapping[str, Any] | None = None) -> list[Scheme]:
    """The schemes with these names.

    Args:
        names: Keys of `SCHEMES`.
        options: Numbers and words that are to be others than the schemes' own, by field; each goes to all of the
            schemes that have it.

    Raises:
        ValueError: If a name is unknown or named twice, or there is none; if no scheme has an option, or as
            `Scheme.with_options`.
        TypeError: If this is no list of names, or as `Scheme.with_options`.
    """
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"schemes are asked for by a list of names, such as ['bnn'], got {shown(names)}")
    unknown = [name for name in names if name not in SCHEMES]
    if unknown or not names:
        raise ValueError(f"unknown scheme {', '.join(unknown) or '(none given)'}; known: {', '.join(SCHEMES)}")
    if len(set(names)) != len(names):
        raise ValueError(f"each scheme once, got {', '.join(names)}")
    schemes, given = [SCHEMES[name] for name in names], dict(options or {})
    for option in given:
        if not any(option in scheme.options for scheme in schemes):
            having = [scheme.name for scheme in SCHEMES.values() if option in scheme.options]
            raise ValueError(
                f"{', '.join(names)}: no option {option} to choose; "
                + (f"schemes that have it: {', '.join(having)}" if having else "no scheme has one of that name")
            )
    return [scheme.with_options(**scheme.own(given)) for scheme in schemes]


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
