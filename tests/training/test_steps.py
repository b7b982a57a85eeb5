import numpy as np
import pytest
import torch
from torch import nn

from bayes_influence.data.batch import Batch
from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.moments.layers import is_bayesian
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Flattening
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.steps import (
    derived_seed,
    member_gradients,
    right_predictions,
    seeded_noise,
    step_objective,
)

BATCH = Batch(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)


def moved_by_a_step(network, held=()):
    objective = Objective(network, TiltedCategorical() if is_bayesian(network) else CrossEntropy())
    buffers = {name: value.clone() for name, value in objective.buffers.items()}
    step_objective(objective, held)(objective.params, buffers, BATCH, None, 0.0)
    return {name for name, value in buffers.items() if not torch.equal(value, objective.buffers[name])}


def test_running_statistics_move_but_those_of_bayesian_networks_and_held_ones():
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).eval()
    statistics = {f"{index}.{name}" for index in (0, 2) for name in dict(network[0].named_buffers())}
    assert moved_by_a_step(network) == statistics
    assert moved_by_a_step(network, ["0.running_mean"]) == {name for name in statistics if name.startswith("2.")}
    assert not moved_by_a_step(to_bayesian(network))


def test_batch_norms_of_a_bayesian_network_that_saw_no_batch_are_named(caplog):
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    network[0](BATCH.inputs)
    moved_by_a_step(network)
    assert not caplog.messages
    moved_by_a_step(to_bayesian(network))
    (said,) = caplog.messages
    assert said.startswith(
        "2: no batch was seen, and a Bayesian network keeps the running statistics that it starts with"
    )


def test_a_buffer_that_is_assigned_anew_moves_too():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, inputs):
            self.calls = self.calls + self.training
            return inputs

    assert moved_by_a_step(nn.Sequential(Counting(), nn.Linear(2, 2))) == {"0.calls"}


def test_the_network_is_trained_in_training_mode_and_left_in_its_own():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.99)).eval()
    objective = Objective(network, lambda outputs, targets: outputs[:, 0])
    batch = Batch(torch.ones(64, 2), torch.zeros(64, dtype=torch.int64))
    value, _ = step_objective(objective)(objective.params, {}, batch, None, 0.0)
    assert not network.training
    assert value != objective.value(objective.params, batch)


def test_the_value_is_the_objectives_own():
    objective = Objective(MLP(2, 3, seed=0), CrossEntropy(), lambda params: params["0.bias"].sum())
    batch = Batch(torch.randn(8, 2), torch.arange(8) % 3)
    weights = torch.rand(8)
    value, right = step_objective(objective)(objective.params, {}, batch, weights, 0.5)
    torch.testing.assert_close(value, objective.value(objective.params, batch, weights, 0.5))
    predicted = objective.outputs(objective.params, batch.inputs).argmax(-1)
    assert right == (predicted == batch.targets).sum()


def test_right_predictions_of_moments_and_of_real_targets():
    outputs = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    moments = Moments(outputs, torch.ones(2, 2))
    assert right_predictions(TiltedCategorical(), moments, torch.tensor([0, 0])) == 1
    assert right_predictions(GaussianNoise(), outputs, outputs).isnan()


def test_right_predictions_follow_from_the_likelihood():
    logits, labels = torch.tensor([[2.0], [-1.0], [3.0]]), torch.tensor([1, 0, 0])
    assert right_predictions(Bernoulli(), logits, labels) == 2
    assert right_predictions(Bernoulli(), torch.cat([logits, logits], 1), torch.stack([labels, 1 - labels], 1)) == 0
    assert right_predictions(lambda outputs, targets: outputs.sum(1), logits, labels).isnan()


def test_noise_follows_from_the_seed_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    with seeded_noise(5, torch.device("cpu")):
        one = torch.rand(3)
    with seeded_noise(5, torch.device("cpu")):
        assert torch.equal(one, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())
    assert derived_seed(1, 2) != derived_seed(2, 1)
    assert derived_seed(1, 2) == derived_seed(1, 2)


def test_the_examples_own_weights_count_as_in_the_objective():
    objective = Objective(MLP(2, 3, seed=0), CrossEntropy())
    batch = Batch(torch.randn(8, 2), torch.arange(8) % 3, torch.rand(8))
    for removed in (None, torch.arange(8) / 8):
        value, _ = step_objective(objective)(objective.params, {}, batch, removed, 0.5)
        torch.testing.assert_close(value, objective.value(objective.params, batch, removed, 0.5))


class Kernel(nn.Module):
    """A parameter of three axes, as convolutions have."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(3, 2, 1))

    def forward(self, inputs):
        return (inputs @ self.kernel[:, :, 0].T).tanh()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(2, 3), nn.Tanh()), Kernel()])
def test_members_gradients_are_those_of_each_on_its_own_batch(network, alone, weighted):
    generator = torch.Generator().manual_seed(1)
    objective = Objective(network, CrossEntropy(), WeightDecay(0.3))
    layout = Flattening.of(objective.params)
    flat = torch.randn(4, layout.total, generator=generator)
    batch = Batch(torch.randn(4, 5, 2, generator=generator), torch.randint(3, (4, 5), generator=generator))
    weights = torch.rand(4, 5, generator=generator) if weighted else None
    step = step_objective(objective)
    given = (objective.network, step, layout, flat, {}, batch, weights, 0.7, [1, 2, 3, 4])
    gradients, values, right = member_gradients(*given, alone=alone)
    for index in range(4):
        leaves = {name: value.clone().requires_grad_() for name, value in layout.unflatten(flat[index]).items()}
        own = Batch(batch.inputs[index], batch.targets[index])
        value = objective.value(leaves, own, None if weights is None else weights[index], 0.7)
        expected = torch.cat([part.flatten() for part in torch.autograd.grad(value, list(leaves.values()))])
        torch.testing.assert_close(gradients[index], expected)
        torch.testing.assert_close(values[index], value.detach())
        assert right[index] == (objective.outputs(leaves, own.inputs).argmax(1) == own.targets).sum()


def test_derived_seeds_are_those_that_stored_results_were_drawn_with():
    """NumPy's seed sequence in 63 bits, as torch's generators take."""
    assert derived_seed(1, 2) == 7764949442709860949
    for parts in ((0,), (3, 1), (7, 0, 5)):
        assert derived_seed(*parts) == int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) // 2
