"""How suspicious the labels of training examples are, by every score: the larger, the sooner they are inspected."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import Margin
from bayes_influence.influence.memory_perturbation import (
    GaussianPosterior,
    laplace_posterior,
    mean_field_posterior,
    output_changes,
)
from bayes_influence.influence.posterior_samples import losses_at_samples
from bayes_influence.moments.sampling import Posterior
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import example_losses

SELF = "self-influence"
CLEAN = "influence on a clean set"
LOSS = "loss"
MARGIN = "margin"
ENSEMBLE = "margin of the ensemble"
COVARIANCE = "posterior covariance"
MEMORY = "memory perturbation"
RANDOM = "random"

SCORES = (SELF, CLEAN, LOSS, MARGIN, ENSEMBLE, COVARIANCE, MEMORY, RANDOM)

DRAWS = 100
"""Of the posterior, for the variance of losses."""

PERTURBED_AT_ONCE = 500
"""Each holds the Jacobian of its outputs."""


def label_scores(members: Members, train: Dataset, clean: Dataset, seed: int) -> dict[str, Float[Tensor, " n"]]:
    """Every score of every training example; but for the ensemble's, of the first network and in its last layer.

    Args:
        members: Networks trained on the labels as they are, of classes.
        train: Training examples, with the labels as they are.
        clean: Examples whose labels are known to be right.
        seed: Of the draws.
    """
    objective, generator = members.at(0), torch.Generator().manual_seed(seed)
    influence = Influence(objective, train, parameters="last-layer")
    every = torch.stack([Margin().at(one, train) for one in members])
    return {
        SELF: influence.self_influence(),
        CLEAN: -influence.on_loss(clean).removal.mean(dim=0),
        LOSS: example_losses(objective, train),
        MARGIN: -every[0],
        ENSEMBLE: -every.mean(dim=0),
        COVARIANCE: loss_variances(objective, train, generator),
        MEMORY: memory_changes(objective, train),
        RANDOM: torch.rand(len(train), generator=generator, dtype=torch.float64),
    }


def last_layer_posterior(objective: Objective, train: Dataset) -> GaussianPosterior:
    """Laplace's posterior of a deterministic network's last layer; a Bayesian network's own.

    A scheme without a regulariser has no posterior: the weight decay that the others have then stands for the prior.
    """
    if objective.is_bayesian:
        return mean_field_posterior(objective, train)
    return laplace_posterior(replace(objective, regulariser_weight=1.0), train, parameters="last-layer")


def loss_variances(objective: Objective, train: Dataset, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Var l_i under the posterior: by how much its own removal raises an example's mean loss, to first order.

    Of a Bayesian network over all of its weights, else over Laplace's posterior of the last layer.

    Args:
        objective: Where it was trained to.
        train: Training examples.
        generator: Of the draws.
    """
    if objective.is_bayesian:
        posterior = Posterior.of(objective.network, objective.params)
        sampled = Objective(posterior.network, CrossEntropy()).to(dtype=objective.dtype)
        return losses_at_samples(sampled, posterior.draw(DRAWS, generator), train).var(dim=0)
    found = last_layer_posterior(objective, train)
    mean, layout = found.objective.flat.theta, found.objective.layout
    noise = torch.randn(len(mean), DRAWS, generator=generator, dtype=mean.dtype)
    upper = torch.linalg.cholesky(found.precision, upper=True)
    draws = mean + torch.linalg.solve_triangular(upper, noise, upper=True).T
    return losses_at_samples(found.objective, layout.unflatten(draws), found.data).var(dim=0)


def memory_changes(objective: Objective, train: Dataset) -> Float[Tensor, " n"]:
    """||v_i e_i||: how far an example's outputs move when it leaves, by the memory-perturbation equation."""
    posterior = last_layer_posterior(objective, train)
    return torch.cat([output_changes(posterior, ids) for ids in train.ids.split(PERTURBED_AT_ONCE)]).norm(dim=1)
