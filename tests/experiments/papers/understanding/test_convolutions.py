import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.understanding import convolutions
from bayes_influence.experiments.papers.understanding.convolutions import continued, refitted, tanh_convolutions
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.schedules import SWA


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 1, 4, 4, generator=generator, dtype=torch.float64)
    targets = torch.arange(24) % 2
    inputs = coarse[targets] + 0.4 * torch.randn(24, 1, 4, 4, generator=generator, dtype=torch.float64)
    return Dataset(inputs, targets, torch.arange(100, 124), name="patterns")


@pytest.fixture(scope="module")
def objective():
    network = tanh_convolutions(4, 1, 2, seed=0).double()
    return Objective(network, CrossEntropy(), WeightDecay(0.05))


@pytest.mark.parametrize(("side", "kernel", "stride"), [(4, 1, 1), (7, 4, 1), (14, 5, 3), (28, 7, 7)])
def test_the_first_convolution_looks_at_four_places_a_side_that_cover_the_image(side, kernel, stride):
    network = tanh_convolutions(side, 3, 10, seed=0)
    assert network[0].kernel_size == (kernel, kernel)
    assert network[0].stride == (stride, stride)
    assert 3 * stride + kernel == side
    assert network[0](torch.zeros(2, 1, side, side)).shape == (2, 3, 4, 4)
    assert network(torch.zeros(2, 1, side, side)).shape == (2, 10)
    torch.testing.assert_close(network[0].weight, tanh_convolutions(side, 3, 10, seed=0)[0].weight)


def test_training_that_goes_on_is_momentum_sgd_without_the_image_less_the_control(images, objective, monkeypatch):
    """One batch of all images, so that the order does not matter: a reference by torch's own optimiser."""
    monkeypatch.setattr(convolutions, "REFIT_BATCH", len(images))
    train, test = images.select(range(1, 24)), images.select([0])
    ids = train.ids[[4, 11]]
    found, drift = continued(objective, train, test, ids, epochs=3, order=0)

    def after(weights):
        params = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
        optimiser = torch.optim.SGD(params.values(), lr=0.05, momentum=0.9)
        for _ in range(3):
            optimiser.zero_grad()
            objective.value(params, train.batch(), weights).backward()
            optimiser.step()
        return float(objective.losses(params, test.batch()).detach())

    everyone = torch.ones(23, dtype=torch.float64)
    control = after(everyone)
    assert drift == pytest.approx(control - float(objective.losses(objective.params, test.batch())))
    for row, effect in zip((4, 11), found.tolist(), strict=True):
        without = everyone.clone()
        without[row] = 0
        assert effect == pytest.approx(after(without) - control, abs=1e-12)


def test_every_refit_takes_its_minibatches_in_the_order_of_the_control(images, objective, monkeypatch):
    """Or the change that an image makes would be that of the order: with an image of no weight it is nothing."""
    monkeypatch.setattr(convolutions, "REFIT_BATCH", 6)
    train, test = images.select(range(1, 24)), images.select([0])
    idle = Dataset(
        train.inputs,
        train.targets,
        train.ids,
        name="idle",
        weights=torch.ones(23, dtype=torch.float64).index_fill(0, torch.tensor([4]), 0.0),
    )
    first, drift = continued(objective, idle, test, train.ids[[4, 11]], epochs=2, order=0)
    assert float(first[0]) == pytest.approx(0, abs=1e-13)
    assert abs(float(first[1])) > 1e-6
    second, other = continued(objective, idle, test, train.ids[[4, 11]], epochs=2, order=1)
    assert drift != other
    assert float(second[1]) != float(first[1])
    averaged, _ = continued(objective, idle, test, train.ids[[11]], epochs=2, order=0, averaging=SWA(0.0, 0.05))
    assert float(averaged[0]) != float(first[1])


def test_a_refit_that_reached_no_minimum_has_no_effect_to_speak_of(images, objective):
    train, test = images.select(range(1, 24)), images.select([0])
    there = minimum_of(objective, train, tolerance=1e-9)
    ids = train.ids[[4, 11]]
    found = refitted(Minimum(1e-8), there, train, test, ids)
    before = float(there.losses(there.params, test.batch()))
    for one, effect in zip(ids, found.tolist(), strict=True):
        # 1/n is kept: the mean over 22 with 22/23 of the loss is minimised with 23/22 of the decay.
        heavier = Objective(there.network, CrossEntropy(), WeightDecay(0.05 * 23 / 22)).at(there.params)
        alone = minimum_of(heavier, train.without(one), tolerance=1e-9)
        assert effect == pytest.approx(float(alone.losses(alone.params, test.batch())) - before, abs=1e-6)
    assert refitted(Minimum(0.0), there, train, test, ids).isnan().all()
