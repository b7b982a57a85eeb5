"""What a compared network is like: how well it predicts, and the spectrum of its loss, the same for every scheme."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayes_influence.curvature.cost import DENSE_SIZE
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.curvature.spectrum.power_iteration import power_iteration_pyhessian
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.convert import to_deterministic
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.ensembles import EnsembleCrossEntropy
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.predictive import ClassPredictive, LabelPredictive, RealPredictive
from bayes_influence.training.noise import LearnedNoise

BATCH = 1000
"""Examples evaluated at once."""

DENSE_PASSES = 2_000_000
"""Parameters times examples up to which a Hessian is built whole: one pass over the examples per parameter."""


def is_small(objective: Objective, data: Dataset, closed: bool = False) -> bool:
    """Whether a Hessian is built whole rather than looked at by its products.

    Args:
        objective: In whose selected parameters it is.
        data: The examples of its mean.
        closed: Whether it is had without a pass per parameter.
    """
    size = objective.layout.total
    return size <= DENSE_SIZE and (closed or size * len(data) <= DENSE_PASSES)


def described(objective: Objective, train: Dataset, test: Dataset) -> dict[str, Any]:
    """How well a network predicts both parts, and the two ends of its loss's spectrum.

    Args:
        objective: Where it was fitted.
        train: Training examples.
        test: Test examples.
    """
    parts = {"train": train, "test": test}
    scores = {
        f"{part}_{name}": value for part, data in parts.items() for name, value in scored(objective, data).items()
    }
    return scores | loss_spectrum(objective, train)


def scored(objective: Objective, data: Dataset) -> dict[str, float]:
    """Mean loss; of classes and labels the accuracy, of real numbers the root mean squared error as well.

    Args:
        objective: Where it was fitted.
        data: Examples.
    """
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    squares: list[Tensor] = []
    likelihood = objective.likelihood
    with torch.no_grad():
        for batch in data.batches(BATCH):
            outputs = objective.outputs(objective.params, objective.fitting(batch.inputs))
            losses.append(objective.losses_of(outputs, batch))
            if isinstance(likelihood, RealPredictive):
                mean = likelihood.split(mean_of(outputs))[0]
                squares.append((mean - batch.targets).square().reshape(-1))
            elif isinstance(likelihood, ClassPredictive):
                hits.append(likelihood.hits(outputs, batch.targets))
    found = {"loss": float(torch.cat(losses).double().mean())}
    if hits:
        found["accuracy"] = float(torch.cat(hits).double().mean())
    if squares:
        found["rmse"] = float(torch.cat(squares).double().mean().sqrt())
    return found


def loss_spectrum(objective: Objective, train: Dataset) -> dict[str, float | str]:
    """Both ends of the Hessian of the plain loss in all parameters: exact where that is cheap, else by Lanczos.

    Args:
        objective: Where it was fitted.
        train: Training examples.

    Returns:
        `loss_hessian_max`, `loss_hessian_min`, `spectrum` (by which way), and, of a dense Hessian, `power_iteration`,
        what published spectra report; NaN otherwise.
    """
    loss = plain_loss(objective)
    if loss is None:
        unknown = dict.fromkeys(("loss_hessian_max", "loss_hessian_min", "power_iteration"), float("nan"))
        return unknown | {"spectrum": "none"}
    power = float("nan")
    if is_small(loss, train):
        likelihood, batch = loss.likelihood, train.batch()
        extremes = extreme_eigenvalues(dense_hessian(loss, batch))
        if loss.device.type == "cpu":
            power = power_iteration_pyhessian(loss.network, lambda o, t: likelihood(o, t).mean(), batch)
    else:
        extremes = extreme_eigenvalues(HessianOperator(loss, train, BATCH), dense_size=0)
    return {
        "loss_hessian_max": extremes.largest,
        "loss_hessian_min": extremes.smallest,
        "power_iteration": power,
        "spectrum": "dense" if is_small(loss, train) else "lanczos",
    }


def plain_loss(objective: Objective) -> Objective | None:
    """The loss in all parameters of the (posterior) mean network, without a regulariser: the same for every scheme.

    Cross-entropy (of a deep ensemble its mean), the Bernoulli likelihood, or half the squared error; of a deterministic
    network with a loss of the user's own that loss, and of a Bayesian one with such a loss nothing.

    Args:
        objective: Where it was fitted.
    """
    network, likelihood = objective.network, _plain_likelihood(objective.likelihood)
    if isinstance(network, LearnedNoise):
        network = network.network
    if objective.is_bayesian:
        if likelihood is None:
            return None
        network = to_deterministic(network)
    return Objective(network, objective.likelihood if likelihood is None else likelihood)


def _plain_likelihood(likelihood: Likelihood) -> Likelihood | None:
    if isinstance(likelihood, EnsembleCrossEntropy):
        return likelihood
    if isinstance(likelihood, LabelPredictive):
        return Bernoulli()
    if isinstance(likelihood, ClassPredictive):
        return CrossEntropy()
    return GaussianNoise(1.0) if isinstance(likelihood, RealPredictive) else None
