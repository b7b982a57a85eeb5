import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.synthetic import gaussian_classes
from bayes_influence.models.initialisation import initial_params
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise
from bayes_influence.objectives.members import member, stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import detached_params
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay
from bayes_influence.training import minibatch
from bayes_influence.training.averaging import SWAG
from bayes_influence.training.denormals import denormals_flushed, flushes_denormals
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.finiteness import NonFiniteTrainingError
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import SGD
from bayes_influence.training.schedules import SWA, Plateau, Schedule
from tests.layer_types import small_problem

DATA = gaussian_classes(40, n_features=2).dataset


def network():
    return MLP(2, 2, width=3)


def problem(regulariser=None):
    objective = Objective(network().double(), CrossEntropy(), regulariser or NoRegulariser())
    return objective, initial_params(network, [0, 1, 2], torch.float64)


def assert_same(one, other, exactly=True):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **({"rtol": 0, "atol": 0} if exactly else {}))


def test_full_batches_train_as_the_ensemble_trainer_does():
    objective, params = problem(WeightDecay(0.01))
    full = train_ensemble(objective, params, DATA.batch(), Schedule(30, 0.01, plateau=Plateau(patience=3)))
    schedule = MinibatchSchedule(30, 40, 0.01, plateau=Plateau(patience=3))
    ours = train_minibatches(objective, params, DATA, schedule, [0, 1, 2])
    assert_same(ours.params, full.params, exactly=False)
    torch.testing.assert_close(ours.values, full.trace)


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "MultiheadAttention", "custom function"])
def test_members_that_torch_cannot_batch_end_where_they_end_alone(layer):
    objective, data = small_problem(layer)
    # Attention does not feel the bias of its keys: at 0 its gradient is rounding, of which Adam keeps the sign.
    params = {name: torch.stack([value + 0.1, 1.2 * value + 0.1]) for name, value in objective.params.items()}
    schedule = MinibatchSchedule(3, 2, 0.05)
    together = train_minibatches(objective, params, data, schedule, [7, 8])
    for index, seed in enumerate([7, 8]):
        start = stack_members([member(params, index)])
        alone = train_minibatches(objective, start, data, schedule, [seed])
        assert_same(member(together.params, index), member(alone.params, 0), exactly=False)


@pytest.mark.parametrize("averaging", [None, SWA(start=0.5)], ids=["last", "averaged"])
def test_a_member_ends_where_it_ends_alone(averaging):
    objective, params = problem(WeightDecay(0.01))
    weights = torch.ones(3, 40)
    weights[1, 5] = 0.0
    schedule = MinibatchSchedule(4, 16, 0.01, clip=0.5)
    together = train_minibatches(
        objective, params, DATA, schedule, [7, 8, 9], averaging=averaging, data_weights=weights
    )
    for index, seed in enumerate([7, 8, 9]):
        alone = train_minibatches(
            objective,
            stack_members([member(params, index)]),
            DATA,
            schedule,
            [seed],
            averaging=averaging,
            data_weights=weights[index : index + 1],
        )
        assert_same(member(together.params, index), member(alone.params, 0), exactly=False)


@pytest.fixture
def steps(monkeypatch):
    """What every step is given: batches, the regulariser's weight, and the seeds of the members' noise."""
    seen, original = [], minibatch.member_gradients

    def recorded(network, step, layout, flat, buffers, batch, weights, regulariser_weight, seeds, *, alone):
        seen.append((batch.inputs, regulariser_weight, seeds))
        return original(network, step, layout, flat, buffers, batch, weights, regulariser_weight, seeds, alone=alone)

    monkeypatch.setattr(minibatch, "member_gradients", recorded)
    return seen


def test_orders_differ_between_seeds_and_epochs(steps):
    objective, params = problem()
    same_start = stack_members([member(params, 0)] * 3)
    ended = train_minibatches(objective, same_start, DATA, MinibatchSchedule(2, 8), [1, 1, 2]).params
    assert torch.equal(ended["0.weight"][0], ended["0.weight"][1])
    assert not torch.equal(ended["0.weight"][0], ended["0.weight"][2])
    first, second = (torch.cat([inputs for inputs, *_ in part], dim=1) for part in (steps[:5], steps[5:]))
    for member_index in range(3):
        assert not torch.equal(first[member_index], second[member_index])
        for epoch in (first, second):
            assert torch.equal(epoch[member_index].sort(dim=0).values, DATA.inputs.sort(dim=0).values.to(epoch))
    assert torch.equal(second[0], second[1])
    assert not torch.equal(second[0], second[2])


def test_noise_is_new_in_every_step_and_follows_the_seed(steps):
    objective, params = problem()
    train_minibatches(objective, params, DATA, MinibatchSchedule(3, 20), [1, 1, 2])
    noise = [seeds for *_, seeds in steps]
    assert len({seeds[0] for seeds in noise} | {seeds[2] for seeds in noise}) == 2 * 3 * 2
    assert all(one == other for one, other, _ in noise)


def test_the_regularisers_weight_rises_over_the_annealed_steps(steps):
    objective, params = problem(WeightDecay(0.5))
    objective = replace(objective, regulariser_weight=2.0)
    train_minibatches(objective, params, DATA, MinibatchSchedule(4, 20, annealing=0.5), [0, 1, 2])
    assert [weight for _, weight, _ in steps] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0, 2.0, 2.0])


def test_the_batch_gradient_is_unbiased_for_the_objectives():
    """Steps of plain SGD, averaged over seeds, go along the whole gradient, the regulariser inside."""
    objective, params = problem(WeightDecay(0.5))
    start = member(params, 0)
    seeds = range(2000)
    ended = train_minibatches(
        objective,
        stack_members([start] * len(seeds)),
        DATA,
        MinibatchSchedule(1, 16, 1e-9, optimiser=SGD(0.0)),
        seeds,
    )
    layout = objective.layout
    steps = (layout.flatten(start) - layout.flatten(ended.params)) / 1e-9 / 3
    theta = layout.flatten(start).requires_grad_()
    (expected,) = torch.autograd.grad(objective.value(layout.unflatten(theta), DATA.batch()), theta)
    error = steps.std(0) / len(seeds) ** 0.5
    assert ((steps.mean(0) - expected).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("averaging", [None, SWA(0.25), SWAG(0.25, rank=2)], ids=["last", "swa", "swag"])
@pytest.mark.parametrize("kind", ["plain", "batch-norm and dropout"])
def test_a_stopped_training_continues_exactly(averaging, kind):
    layers = [nn.BatchNorm1d(3), nn.Dropout(0.3)] if kind != "plain" else []
    net = nn.Sequential(nn.Linear(2, 3), *layers, nn.Tanh(), nn.Linear(3, 2)).double()
    objective = Objective(net, CrossEntropy(), WeightDecay(0.01))
    params = stack_members([detached_params(net)] * 2)
    schedule = MinibatchSchedule(6, 16, 0.01, decay="cosine", plateau=Plateau(patience=1), annealing=0.5)
    states = []
    arguments = (objective, params, DATA, schedule, [3, 4])
    whole = train_minibatches(*arguments, averaging=averaging, on_epoch=states.append)
    assert [int(state["epoch"]) for state in states] == [1, 2, 3, 4, 5, 6]
    for state in (states[2], states[5]):
        resumed = train_minibatches(*arguments, averaging=averaging, state=state)
        assert_same(resumed.params, whole.params)
        assert_same(resumed.buffers, whole.buffers)
        assert torch.equal(resumed.values, whole.values)
        for one, other in zip(resumed.posteriors, whole.posteriors, strict=True):
            assert torch.equal(one.deviations, other.deviations)


def test_running_statistics_are_trained_and_left_to_the_result():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    objective = Objective(net, CrossEntropy())
    params = stack_members([detached_params(net)])
    result = train_minibatches(objective, params, DATA, MinibatchSchedule(3, 10), [0])
    assert not torch.equal(result.buffers["1.running_mean"][0], net[1].running_mean)
    fitted = result.at(0)
    assert not fitted.network.training
    assert torch.equal(fitted.network[1].running_mean, result.buffers["1.running_mean"][0])
    assert torch.equal(net[1].running_mean, torch.zeros(3, dtype=torch.float64))


def test_members_that_are_picked_keep_their_histories_and_posteriors():
    objective, params = problem()
    schedule = MinibatchSchedule(4, 20, 0.01)
    labels = ["a", "b", "c"]
    trained = train_minibatches(objective, params, DATA, schedule, [0, 1, 2], averaging=SWAG(0.25), labels=labels)
    picked = trained.select([2, 0])
    assert picked.labels == ("c", "a")
    assert torch.equal(picked.values, trained.values[:, [2, 0]])
    assert torch.equal(picked.accuracies, trained.accuracies[:, [2, 0]])
    assert picked.posteriors == (trained.posteriors[2], trained.posteriors[0])
    assert torch.equal(picked.at(0).params["0.weight"], trained.params["0.weight"][2])


def test_convolutional_members_train_together():
    data = Dataset(torch.randn(12, 1, 28, 28), torch.arange(12) % 10, torch.arange(12))
    params = initial_params(LeNet, [0, 1])
    result = train_minibatches(Objective(LeNet(), CrossEntropy()), params, data, MinibatchSchedule(2, 6), [0, 1])
    assert (result.values[1] < result.values[0]).all()
    assert result.params["0.weight"].shape == (2, 6, 1, 5, 5)


def test_a_bayesian_network_learns_and_its_variances_move():
    twin = to_bayesian(network())
    objective = Objective(twin, TiltedCategorical(), GaussianKL(40))
    params = initial_params(lambda: to_bayesian(network()), [0, 1])
    result = train_minibatches(objective, params, DATA, MinibatchSchedule(20, 16, 0.05), [0, 1])
    assert (result.values[-1] < result.values[0] - 0.1).all()
    assert (result.accuracies[-1] > 0.9).all()
    assert (result.params["0.weight_rho"] - params["0.weight_rho"]).abs().max() > 0.1


def test_regression_has_no_accuracy():
    data = Dataset(torch.randn(8, 2), torch.randn(8, 1), torch.arange(8))
    objective = Objective(nn.Linear(2, 1), GaussianNoise())
    params = stack_members([objective.params])
    assert train_minibatches(objective, params, data, MinibatchSchedule(1, 4), [0]).accuracies.isnan().all()


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_non_finite_objective_names_member_and_step(clip):
    objective, params = problem()
    labels = ["swa, seed 0", "swa, seed 1", "swa, seed 2"]
    params["0.weight"][1] = torch.nan
    with pytest.raises(NonFiniteTrainingError, match="swa, seed 1: the objective became nan at step 0; lower the"):
        train_minibatches(objective, params, DATA, MinibatchSchedule(1, 20, clip=clip), [0, 1, 2], labels=labels)


def test_what_does_not_fit_is_refused():
    objective, params = problem()
    with pytest.raises(ValueError, match="3 members need as many seeds and labels, got 2, 3"):
        train_minibatches(objective, params, DATA, MinibatchSchedule(), [0, 1])
    with pytest.raises(ValueError, match=r"data weights must have shape \(3, 40\), got \(3, 39\)"):
        train_minibatches(objective, params, DATA, MinibatchSchedule(), [0, 1, 2], data_weights=torch.ones(3, 39))
    with pytest.raises(ValueError, match="SWAG needs at least 2 averaged epochs, got 1 of 4; train for more"):
        train_minibatches(objective, params, DATA, MinibatchSchedule(4), [0, 1, 2], averaging=SWAG())
    states = []
    schedule = MinibatchSchedule(2, 20)
    train_minibatches(objective, params, DATA, schedule, [0, 1, 2], on_epoch=states.append)
    with pytest.raises(ValueError, match="another network, schedule or scheme: 'average/count' does not fit"):
        train_minibatches(objective, params, DATA, schedule, [0, 1, 2], averaging=SWA(), state=states[0])
    with pytest.raises(ValueError, match="another network, schedule or scheme: it has 2 epochs"):
        train_minibatches(objective, params, DATA, MinibatchSchedule(1, 20), [0, 1, 2], state=states[1])


def test_progress_shows_loss_and_accuracy(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    objective, params = problem()
    train_minibatches(objective, params, DATA, MinibatchSchedule(2, 20), [0, 1, 2], progress=True)
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown
    assert "loss=" in shown
    assert "accuracy=" in shown


def test_weights_that_decay_shrinks_to_denormal_numbers_become_zero():
    dead = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    objective = Objective(dead, CrossEntropy(), WeightDecay(0.01))
    params = stack_members([detached_params(dead)])
    params["0.weight"][0, 1] = torch.tensor([1e-40, -1e-36])
    params["0.bias"][0, 1] = -1.0
    trained = train_minibatches(objective, params, DATA.to(dtype=torch.float32), MinibatchSchedule(2, 40, 1e-9), [0])
    assert trained.params["0.weight"][0, 1].tolist() == [0.0, pytest.approx(-1e-36, rel=1e-3)]


def test_what_is_denormal_between_the_weights_is_flushed_and_only_while_training(monkeypatch):
    seen = []
    monkeypatch.setattr(minibatch, "zero_denormals", lambda flat: seen.append(flushes_denormals()))
    objective, params = problem()
    assert not flushes_denormals()
    train_minibatches(objective, params, DATA, MinibatchSchedule(1, 20), [0, 1, 2])
    assert seen
    assert all(seen)
    assert not flushes_denormals()
    with denormals_flushed(), denormals_flushed():
        pass
    with denormals_flushed():
        train_minibatches(objective, params, DATA, MinibatchSchedule(1, 20), [0, 1, 2])
        assert flushes_denormals()
