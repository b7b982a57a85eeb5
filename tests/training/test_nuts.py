import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.likelihoods import GaussianNoise

pyro = pytest.importorskip("pyro")
from bayes_influence.training.nuts import nuts_reference, potential  # noqa: E402 - importing Pyro may be impossible
from bayes_influence.training.pyro_models import to_pyro  # noqa: E402

SCALES = {"0.weight": 0.7, "0.bias": 2.0}


def line():
    inputs = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = inputs @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64) + 0.5
    return Dataset(inputs, targets, torch.arange(20))


def test_the_potential_is_the_models_log_density():
    network, data = MLP(2, 1, depth=0, seed=0).double(), line()
    energy = potential(network, data, SCALES, GaussianNoise(0.3))
    values = []
    for shift in (0.0, 0.4):
        weights = {name: value.detach() + shift for name, value in network.named_parameters()}
        model = pyro.poutine.condition(to_pyro(network, SCALES, GaussianNoise(0.3)), data=weights)
        density = pyro.poutine.trace(model).get_trace(data.inputs, data.targets).log_prob_sum()
        values.append(energy(weights) + density)
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.slow
def test_a_linear_models_posterior_is_the_closed_form():
    data, noise = line(), 0.3
    network = MLP(2, 1, depth=0, seed=0).double()
    samples = nuts_reference(
        network, data, data.inputs[:5], prior_scale=1.5, likelihood=GaussianNoise(noise), draws=250, warmup=150
    )
    design = torch.cat([data.inputs, torch.ones(20, 1, dtype=torch.float64)], dim=1)
    precision = design.T @ design / noise**2 + torch.eye(3, dtype=torch.float64) / 1.5**2
    mean = torch.linalg.solve(precision, design.T @ data.targets / noise**2).squeeze(1)
    drawn = torch.cat([samples.params["0.weight"].flatten(1), samples.params["0.bias"]], dim=1)
    deviation = torch.linalg.inv(precision).diagonal().sqrt()
    assert drawn.shape == (500, 3)
    assert ((drawn.mean(0) - mean).abs() < 0.3 * deviation).all()
    torch.testing.assert_close(drawn.std(0), deviation, rtol=0.25, atol=0)
    assert samples.r_hat < 1.05
    assert samples.effective > 100
    assert samples.outputs.shape == (500, 5, 1)


def test_large_networks_and_single_chains_are_refused():
    data = line()
    with pytest.raises(ValueError, match="NUTS is for networks of up to 200 parameters, MLP has 401"):
        nuts_reference(MLP(2, 1, width=100), data, data.inputs)
    with pytest.raises(ValueError, match="at least 2 chains of 4 draws, got 1 of 500"):
        nuts_reference(MLP(2, 1, depth=0), data, data.inputs, chains=1)
    with pytest.raises(ValueError, match="at least 2 chains of 4 draws, got 2 of 3"):
        nuts_reference(MLP(2, 1, depth=0), data, data.inputs, draws=3)


def test_four_draws_of_two_chains_are_judged():
    data = line()
    samples = nuts_reference(
        MLP(2, 1, depth=0, seed=0).double(), data, data.inputs, likelihood=GaussianNoise(0.3), draws=4, warmup=4
    )
    by_chain = samples.outputs.unflatten(0, (2, 4))
    within, between = by_chain.var(dim=1).mean(dim=0), by_chain.mean(dim=1).var(dim=0)
    assert samples.r_hat == pytest.approx(float((3 / 4 + between / within).sqrt().max()))


def test_a_weight_counts_as_often_as_it_says():
    network, rows = nn.Linear(2, 3).double(), torch.tensor([0, 2, 2, 2, 3])
    inputs, targets = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    weights = torch.tensor([1.0, 0.0, 3.0, 1.0], dtype=torch.float64)
    weighted = Dataset(inputs, targets, torch.arange(4), weights=weights)
    repeated = Dataset(inputs[rows], targets[rows], torch.arange(5))
    params = {name: value.detach() for name, value in network.named_parameters()}
    energies = [float(potential(network, data)(params)) for data in (weighted, repeated)]
    assert energies[0] == pytest.approx(energies[1])
