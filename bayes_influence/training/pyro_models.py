"""The same network, prior and likelihood as a Pyro model, and sampled mean-field VI with Pyro's `AutoNormal`.

Import this module only where Pyro is wanted: importing Pyro takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import functional_call

from bayes_influence.data.batch import Batch
from bayes_influence.moments.convert import to_bayesian, to_deterministic
from bayes_influence.objectives.expected_likelihoods import sampled_likelihood
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO, Params
from bayes_influence.objectives.regularisers import GaussianKL
from bayes_influence.training.steps import StepValue, right_predictions

PyroModel = Callable[..., Any]
"""`model(inputs, targets, scale=1.0, prior_weight=1.0, fixed=None)`: samples the weights under their names, their
log-prior times `prior_weight`; observes the targets at the site "targets", each log-likelihood times `scale`; returns
the network's outputs. `fixed` has values of other parameters and buffers."""


def to_pyro(
    network: nn.Module,
    prior_scale: float | dict[str, float] = 1.0,
    likelihood: CrossEntropy | Bernoulli | GaussianNoise = CrossEntropy(),  # noqa: B008 - frozen and without state
) -> PyroModel:
    """The network with Gaussian weights as a Pyro model.

    w ~ N(0, s^2) for the weights and biases that `to_bayesian` makes Gaussian (any other parameter stays the number
    that it is), and targets from the likelihood of the network's outputs: log p(w) + sum_i log p(y_i | x_i, w), the
    target of `GaussianKL` and that likelihood. With all n examples and `scale=1` it is what
    `pyro.infer.MCMC` samples; with a batch of size B take `scale=n / B`.

    Args:
        network: A deterministic network; left as it is.
        prior_scale: s, one for all or one per parameter name.
        likelihood: Of the outputs.

    Raises:
        UnsupportedModuleError: If the network has no Bayesian twin.
        ValueError: If the likelihood has class weights or smoothed labels, which are not of a probabilistic model.
    """
    if isinstance(likelihood, CrossEntropy) and likelihood != CrossEntropy():
        raise ValueError(f"a Pyro model needs the likelihood itself, CrossEntropy() without options, got {likelihood}")
    return _model(network, gaussian_parameters(to_bayesian(network)), prior_scale, likelihood)


def _model(
    network: nn.Module,
    shapes: dict[str, torch.Size],
    prior_scale: float | dict[str, float],
    likelihood: CrossEntropy | Bernoulli | GaussianNoise,
) -> PyroModel:
    """The Pyro model of a deterministic network, some of whose parameters are random."""
    like = next(network.parameters()).detach()

    def model(
        inputs: Any,
        targets: Tensor,
        scale: float | Tensor = 1.0,
        prior_weight: float | Tensor = 1.0,
        fixed: Params | None = None,
    ) -> Any:
        weights = {}
        with poutine.scale(scale=prior_weight):
            for name, shape in shapes.items():
                s = prior_scale[name] if isinstance(prior_scale, dict) else prior_scale
                prior = dist.Normal(like.new_zeros(shape), like.new_full(shape, s)).to_event(len(shape))
                weights[name] = pyro.sample(name, prior)
        outputs = functional_call(network, {**weights, **(fixed or {})}, (inputs,))
        with pyro.plate("examples", len(targets)), poutine.scale(scale=scale):
            if isinstance(likelihood, CrossEntropy):
                pyro.sample("targets", dist.Categorical(logits=outputs), obs=targets)
            elif isinstance(likelihood, Bernoulli):
                logits = outputs.reshape(len(targets), -1)
                labels = targets.reshape(len(targets), -1).to(logits)
                pyro.sample("targets", dist.Bernoulli(logits=logits).to_event(1), obs=labels)
            else:
                mean, log_scale = (part.reshape(len(targets), -1) for part in likelihood.split(outputs))
                noise = dist.Normal(mean, log_scale.exp())
                pyro.sample("targets", noise.to_event(1), obs=targets.reshape(len(targets), -1))
        return outputs

    return model


class LogScaleNormal(AutoNormal):
    """`AutoNormal` whose unconstrained scales are log sigma, our rho; `prior_weight` weighs its entropy, too."""

    scale_constraint = constraints.positive  # type: ignore[assignment]

    def forward(self, *args: Any, prior_weight: float | Tensor = 1.0, **kwargs: Any) -> Any:
        """Draws every weight, under its name."""
        with poutine.scale(scale=prior_weight):
            return super().forward(*args, **kwargs)


def guide_params(guide: AutoNormal) -> Params:
    """Means and log standard deviations of a `to_pyro` model's guide, as the Bayesian twin names its parameters.

    Raises:
        ValueError: If the guide has not been called yet, and so has no parameters.
    """
    means = {name: attrgetter(name)(guide.locs).detach().clone() for name in _sites(guide)}
    rhos = {name + RHO: attrgetter(name)(guide.scales).detach().log() for name in _sites(guide)}
    return means | rhos


def svi_step(objective: Objective, n_train: int) -> StepValue:
    """Pyro's estimate of the objective from one draw of the weights: J = -ELBO / n, an unbiased one for a batch.

    Args:
        objective: A Bayesian twin with a `GaussianKL`; its likelihood of moments is replaced by that of the sampled
            outputs.
        n_train: n.

    Raises:
        TypeError: If the regulariser is no `GaussianKL`, or the likelihood does not say what that of
            sampled outputs is.
    """
    if not isinstance(objective.regulariser, GaussianKL):
        raise TypeError(f"svi_step needs a GaussianKL as the regulariser, got {type(objective.regulariser).__name__}")
    likelihood = sampled_likelihood(objective.likelihood)
    sites, scales = gaussian_parameters(objective.network), objective.regulariser.prior_scale
    model = _model(to_deterministic(objective.network), sites, scales, likelihood)
    drawn: list[Any] = []

    def recorded(*args: Any, **kwargs: Any) -> None:
        drawn[:] = [model(*args, **kwargs)]

    with pyro.settings.context(module_local_params=True):
        guide = LogScaleNormal(recorded)
        elbo = TraceMeanField_ELBO()(recorded, guide)  # type: ignore[arg-type]

    def value(
        params: Params, buffers: Params, batch: Batch, weights: Tensor | None, regulariser_weight: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        means = {f"guide.locs.{name}_unconstrained": params[name] for name in sites}
        rhos = {f"guide.scales.{name}_unconstrained": params[name + RHO] for name in sites}
        fixed = {name: value for name, value in params.items() if name.removesuffix(RHO) not in sites}
        share = n_train / len(batch.targets)
        scale = batch.weighted(torch.as_tensor(share) if weights is None else weights * share)
        with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
            if guide.prototype_trace is None:
                with torch.random.fork_rng():
                    guide(batch.inputs, batch.targets)
            arguments = {
                "scale": scale,
                "prior_weight": torch.as_tensor(regulariser_weight),
                "fixed": {**fixed, **buffers},
            }
            loss = functional_call(elbo, {**means, **rhos}, (batch.inputs, batch.targets), arguments)
        return loss / n_train, right_predictions(likelihood, drawn[0], batch.targets)

    return value


def gaussian_parameters(network: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of a Bayesian network's means: the parameters that have a `_rho` beside them."""
    names = dict(network.named_parameters())
    return {name: value.shape for name, value in names.items() if name + RHO in names}


def _sites(guide: AutoNormal) -> list[str]:
    if guide.prototype_trace is None:
        raise ValueError("the guide has no parameters yet; call it once on a batch, or train it")
    return [name for name, _ in guide.prototype_trace.iter_stochastic_nodes()]
