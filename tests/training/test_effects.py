import random

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.effects import _close, watch_step
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schemes import SCHEMES
from bayes_influence.training.steps import step_objective

INPUTS = torch.randn(7, 5, 4, generator=torch.Generator().manual_seed(0))
BATCH = Batch(INPUTS, torch.arange(7) % 3)


class Summed(nn.Module):
    """A layer on sequences, then one on the sum over the positions."""

    def __init__(self, layer, call=None):
        super().__init__()
        self.layer, self.call, self.head = layer, call or (lambda layer, inputs: layer(inputs)), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head(self.call(self.layer, inputs).sum(1))


class Trained(nn.Module):
    """A function of the inputs and of whether they come in training."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(self, inputs)


def per_channel(layer, inputs):
    return layer(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])


def attended(layer, inputs):
    return layer(inputs, inputs, inputs)[0]


def effects(layer, call=None):
    objective = Objective(Summed(layer, call), CrossEntropy())
    before, buffers = torch.get_rng_state(), {name: value.clone() for name, value in objective.buffers.items()}
    seen = watch_step(step_objective(objective), objective, BATCH)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, buffers[name]) for name, value in objective.buffers.items())
    return seen


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        (nn.Linear(4, 4), None),
        (nn.LayerNorm(4), None),
        (nn.Dropout(0.0), None),
        (nn.MultiheadAttention(4, 2, batch_first=True), attended),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), None),
        (nn.LSTM(4, 4, batch_first=True), lambda layer, inputs: layer(inputs)[0]),
    ],
)
def test_what_is_trained_as_it_is_evaluated(layer, call):
    assert effects(layer, call).as_evaluated


@pytest.mark.parametrize(
    ("layer", "call"),
    [
        (nn.Dropout(0.01), None),
        (nn.RReLU(), None),
        (nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True), attended),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True), None),
        (nn.LSTM(4, 4, 2, dropout=0.5, batch_first=True), lambda layer, inputs: layer(inputs)[0]),
        (Trained(lambda module, inputs: functional.dropout(inputs, 0.5, module.training)), None),
        (Trained(lambda module, inputs: inputs + 0.1 * module.training * torch.randn_like(inputs)), None),
    ],
)
def test_noise_is_seen_wherever_it_is_drawn(layer, call):
    seen = effects(layer, call)
    assert seen.draws
    assert seen.alone
    assert not seen.moves
    assert not seen.mixes


def test_running_statistics_move_and_examples_mix():
    seen = effects(nn.BatchNorm1d(4), per_channel)
    assert seen.moves == ("layer.running_mean", "layer.running_var", "layer.num_batches_tracked")
    assert seen.alone
    assert seen.mixes
    assert seen.differs
    assert not seen.draws


def test_running_statistics_that_have_arrived_move_all_the_same():
    network = nn.Sequential(nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 3)).double()
    batch = Batch(INPUTS[:, 0].double(), BATCH.targets)
    network(batch.inputs)
    objective = Objective(network, CrossEntropy())
    assert watch_step(step_objective(objective), objective, batch).moves == tuple(objective.buffers)


def test_examples_mix_beside_noise_and_without_running_statistics():
    noisy = effects(nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)), per_channel)
    assert noisy.draws
    assert noisy.mixes
    without = effects(nn.BatchNorm1d(4, track_running_stats=False), per_channel)
    assert without.mixes
    assert not without.alone


def test_vectors_of_a_power_iteration_move_and_mix_nothing():
    seen = effects(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
    assert seen.moves == ("layer.parametrizations.weight.0._u", "layer.parametrizations.weight.0._v")
    assert not seen.mixes


def test_another_function_in_training_is_not_trained_as_it_is_evaluated():
    seen = effects(Trained(lambda module, inputs: inputs * (2 if module.training else 1)))
    assert seen.differs
    assert not seen.alone
    assert not seen.as_evaluated


def test_bayesian_networks_draw_nothing_and_keep_their_statistics():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    objective = Objective(to_bayesian(network), TiltedCategorical())
    assert watch_step(step_objective(objective), objective, Batch(INPUTS[:, 0], BATCH.targets)).as_evaluated


def test_sampled_weights_are_noise():
    network = to_bayesian(nn.Linear(4, 3))
    objective = SCHEMES["mean-field-vi"].objective(network, 7)
    data = Dataset(INPUTS[:, 0], BATCH.targets, torch.arange(7))
    seen = SCHEMES["mean-field-vi"].effects(objective, data)
    assert seen.draws
    assert not seen.moves


def _counted(module, inputs):
    module.calls = getattr(module, "calls", 0) + 1
    return inputs / module.calls


@pytest.mark.parametrize("function", [_counted, lambda _, inputs: inputs * random.random()])
def test_steps_that_cannot_be_repeated_are_refused(function):
    with pytest.raises(ValueError, match="the same training step gave two different values: the network keeps"):
        effects(Trained(function))


def test_a_batch_norm_on_single_examples_is_refused_before_training():
    objective = Objective(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), CrossEntropy())
    data = Dataset(INPUTS[:, 0], BATCH.targets, torch.arange(7))
    started = []
    # Seven examples in batches of at most two are batches of 2, 2, 2 and 1.
    with pytest.raises(ValueError, match=r"cannot be trained on a batch of a single example .*choose a batch size"):
        train_minibatches(
            objective, stack_members([objective.params]), data, MinibatchSchedule(2, 2), [0], on_epoch=started.append
        )
    assert not started
    train_minibatches(objective, stack_members([objective.params]), data, MinibatchSchedule(2, 3), [0])


def test_values_are_close_to_the_root_of_rounding_and_nan_is_itself():
    """Relative 1.49e-8 in double precision, absolute a thousandth of that."""
    one = torch.tensor([1.0, torch.nan]).double()
    assert _close(one, one * (1 + 1.4e-8))
    assert not _close(one, one * (1 + 1.6e-8))
    zero = torch.zeros(1).double()
    assert _close(zero, zero + 1.4e-11)
    assert not _close(zero, zero + 1.6e-11)
