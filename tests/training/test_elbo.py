import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import ExpectedGaussian, TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.regularisers import GaussianKL
from bayes_influence.training.elbo import sampled_negative_elbo

INPUTS = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_linear_regressions_elbo_is_its_objective():
    data = Dataset(INPUTS, INPUTS.sum(1, keepdim=True), torch.arange(20))
    twin = to_bayesian(MLP(2, 1, depth=0, seed=0).double(), initial_sigma=0.3)
    objective = Objective(twin, ExpectedGaussian(0.5), GaussianKL(20, 0.7))
    sampled = sampled_negative_elbo(objective, data, 2000)
    exact = 20 * float(objective.value(objective.params, data.batch()))
    assert abs(sampled.value - exact) < 4 * sampled.standard_error
    assert sampled.standard_error < 0.02 * exact
    assert sampled.divergence == pytest.approx(20 * float(objective.regulariser(objective.params)))


def test_without_uncertainty_it_is_the_loss_plus_the_divergence_and_never_above_the_tilted_bound():
    data = Dataset(INPUTS, torch.arange(20) % 3, torch.arange(20))
    objective = Objective(to_bayesian(MLP(2, 3, depth=0, seed=0).double()), TiltedCategorical(), GaussianKL(20))
    certain = objective.at({name: value - 20 * name.endswith(RHO) for name, value in objective.params.items()})
    sampled = sampled_negative_elbo(certain, data, 8)
    loss = CrossEntropy()(certain.outputs(certain.params, INPUTS).expectation, data.targets).sum()
    assert sampled.value - sampled.divergence == pytest.approx(float(loss), rel=1e-6)
    wide = objective.at({name: value + 3 * name.endswith(RHO) for name, value in objective.params.items()})
    bound = 20 * float(wide.value(wide.params, data.batch()))
    sampled = sampled_negative_elbo(wide, data, 2000)
    assert sampled.value < bound + 4 * sampled.standard_error


def test_a_weight_counts_as_often_as_it_says():
    objective = Objective(to_bayesian(MLP(2, 3, depth=0, seed=0).double()), TiltedCategorical(), GaussianKL(20))
    weights = torch.tensor([0.0, 1.0, 3.0, 1.0] * 5, dtype=torch.float64)
    rows = torch.arange(20).repeat_interleave(weights.long())
    weighted = Dataset(INPUTS, torch.arange(20) % 3, torch.arange(20), weights=weights)
    repeated = Dataset(INPUTS[rows], rows % 3, torch.arange(len(rows)))
    values = [sampled_negative_elbo(objective, data, 16) for data in (weighted, repeated)]
    assert values[0].value - values[0].divergence == pytest.approx(values[1].value - values[1].divergence)


def test_data_in_single_precision_are_taken_in_that_of_the_network():
    data = Dataset(INPUTS.float(), INPUTS.sum(1, keepdim=True).float(), torch.arange(20))
    objective = Objective(to_bayesian(MLP(2, 1, seed=0).double()), ExpectedGaussian(0.5), GaussianKL(20, 0.7))
    assert sampled_negative_elbo(objective, data, 4) == sampled_negative_elbo(
        objective, data.to(dtype=torch.float64), 4
    )
