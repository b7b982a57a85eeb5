import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay


def test_value_is_the_weighted_mean_over_n_plus_the_regulariser(network, data):
    objective = Objective(network, CrossEntropy(), WeightDecay(0.1), regulariser_weight=0.5)
    weights = torch.rand(len(data)).double()
    losses = F.cross_entropy(network(data.inputs), data.targets, reduction="none")
    squares = sum(value.square().sum() for value in network.parameters())
    expected = (weights * losses).sum() / len(data) + 0.5 * 0.05 * squares
    assert torch.allclose(objective.value(objective.params, data.batch(), weights), expected)
    without = objective.value(objective.params, data.batch(), weights, regulariser_weight=0.0)
    assert torch.allclose(without, (weights * losses).mean())


def test_a_zero_weight_removes_an_example_and_keeps_n(network, data):
    objective = Objective(network, CrossEntropy())
    weights = torch.ones(len(data)).double()
    weights[3] = 0
    rest = objective.losses(objective.params, data.without(3).batch())
    assert torch.allclose(objective.value(objective.params, data.batch(), weights), rest.sum() / len(data))


def test_the_network_runs_in_evaluation_mode(data):
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)).double().train()
    objective = Objective(network, CrossEntropy())
    first = objective.losses(objective.params, data.batch())
    assert torch.equal(first, objective.losses(objective.params, data.batch()))


def test_at_moves_the_parameters_and_leaves_the_network(network, data):
    objective = Objective(network, CrossEntropy())
    moved = objective.at({name: value + 1 for name, value in objective.params.items()})
    assert torch.equal(moved.params["0.bias"], network[0].bias + 1)
    assert not torch.allclose(
        moved.losses(moved.params, data.batch()), objective.losses(objective.params, data.batch())
    )


def test_to_casts_parameters_and_buffers(data):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    objective = Objective(network, CrossEntropy()).to(dtype=torch.float64)
    assert objective.losses(objective.params, data.batch()).dtype == torch.float64
    assert network[1].running_mean.dtype == torch.float32


def test_foreign_parameters_are_refused(network):
    with pytest.raises(ValueError, match="params must name the network's parameters"):
        Objective(network, CrossEntropy(), params={"weight": torch.ones(2)})


def test_a_stack_is_refused_where_one_network_is_meant(network):
    stacked = {name: torch.stack([value, value]) for name, value in network.named_parameters()}
    with pytest.raises(ValueError, match=r"must have shape \(5, 4\), got \(2, 5, 4\); take one member"):
        Objective(network, CrossEntropy(), params=stacked)


def test_a_reduced_likelihood_is_refused(network, data):
    objective = Objective(network, F.cross_entropy)
    with pytest.raises(ValueError, match=r"one loss per example, shape \(30,\), got \(\); use reduction='none'"):
        objective.check(data.batch())
    with pytest.raises(ValueError, match="use reduction='none'"):
        objective.value(objective.params, data.batch())


def test_losses_that_are_not_finite_are_refused(network, data):
    objective = Objective(network, CrossEntropy())
    broken = objective.at({name: value * torch.nan for name, value in objective.params.items()})
    with pytest.raises(ValueError, match="30 of 30 losses are not finite"):
        broken.check(data.batch())


def test_the_users_network_stays_as_it_was(data):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).double().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    objective = Objective(network, CrossEntropy())
    objective.losses({name: value + 1 for name, value in objective.params.items()}, data.batch())
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network[1].running_mean += 3
    assert torch.equal(objective.buffers["1.running_mean"], torch.zeros(3).double())


def test_the_network_of_an_objective_is_the_trained_one(network, data):
    objective = Objective(network, CrossEntropy())
    moved = objective.at({name: value + 1 for name, value in objective.params.items()})
    torch.testing.assert_close(moved.network(data.inputs), moved.outputs(moved.params, data.inputs))
    assert torch.equal(moved.network.state_dict()["0.bias"], network[0].bias + 1)


def test_threads_do_not_see_each_others_parameters(network, data):
    objective = Objective(network, CrossEntropy())
    stands = [{name: value + shift for name, value in objective.params.items()} for shift in range(8)]
    expected = [objective.losses(params, data.batch()) for params in stands]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda params: objective.losses(params, data.batch()), stands * 50))
    assert all(torch.equal(losses, expected[index % 8]) for index, losses in enumerate(found))


def test_frozen_parameters_are_not_among_all(network):
    network[0].requires_grad_(False)
    assert Objective(network, CrossEntropy()).names == ("2.weight", "2.bias")
    assert Objective(network, CrossEntropy(), parameters=["0.bias"]).names == ("0.bias",)
    network[2].requires_grad_(False)
    with pytest.raises(ValueError, match=r"parameters='last-layer' leaves nothing: .* are frozen"):
        Objective(network, CrossEntropy(), parameters="last-layer")


def test_the_last_layer_is_the_one_called_last(head_first, data):
    objective = Objective(head_first, CrossEntropy(), parameters="last-layer")
    assert objective.resolved(data.inputs).names == ("head.weight", "head.bias")


def test_an_objective_survives_pickling_and_prints_in_a_line(network, data):
    objective = Objective(network, CrossEntropy())
    again = pickle.loads(pickle.dumps(objective))
    assert torch.equal(again.losses(again.params, data.batch()), objective.losses(objective.params, data.batch()))
    assert (
        repr(objective)
        == "Objective(Sequential of 43 parameters, CrossEntropy, NoRegulariser times 1, parameters='all')"
    )


def test_buffers_of_another_network_are_refused(network):
    with pytest.raises(ValueError, match=r"buffers must name the network's buffers \[\], got \['mean'\]"):
        Objective(network, CrossEntropy(), buffers={"mean": torch.ones(1)})


def test_sample_weights_are_inside_the_losses(network, data):
    objective = Objective(network, CrossEntropy())
    weights = torch.linspace(0, 2, 30).double()
    weighted = objective.losses(objective.params, replace(data, weights=weights).batch())
    torch.testing.assert_close(weighted, weights * objective.losses(objective.params, data.batch()))


def test_an_objective_that_stands_there_already_is_itself():
    objective = Objective(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double(), CrossEntropy())
    views = {name: value.unsqueeze(0)[0] for name, value in objective.params.items()}
    assert objective.at(views) is objective
    assert objective.at(objective.params, objective.buffers) is objective
    copied = {name: value.clone() for name, value in objective.params.items()}
    moved = objective.at(copied)
    assert moved is not objective
    assert all(parameter.data_ptr() == copied[name].data_ptr() for name, parameter in moved.network.named_parameters())
    means = objective.at(objective.params, {"1.running_mean": torch.ones(2, dtype=torch.float64)})
    assert means.network[1].running_mean.tolist() == [1.0, 1.0]
    assert objective.network[1].running_mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("regulariser", "weight", "is_regularised"),
    [
        (WeightDecay(0.1), 1.0, True),
        (WeightDecay(0.1), 0.3, True),
        (WeightDecay(0.1), 0.0, False),
        (NoRegulariser(), 1.0, False),
    ],
)
def test_a_regulariser_takes_part_where_it_has_a_weight(regulariser, weight, is_regularised):
    objective = Objective(nn.Linear(2, 2), CrossEntropy(), regulariser, regulariser_weight=weight)
    assert objective.is_regularised is is_regularised


@pytest.mark.parametrize("path", ["", "0"])
def test_layers_of_torch_jit_are_refused(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    network = nn.Sequential(scripted) if path else scripted
    with pytest.raises(TypeError, match=r"does not take, and it.* is one .*pass the module that was scripted"):
        Objective(network, CrossEntropy())


def test_influence_in_the_same_parameters_is_the_same_objective(network):
    objective = Objective(network, CrossEntropy(), parameters="last-layer")
    assert objective.taking("last-layer") is objective
    assert objective.taking(None) is objective
    assert objective.taking("all").names == ("0.weight", "0.bias", "2.weight", "2.bias")


@pytest.mark.usefixtures("as_installed")
def test_what_makes_no_objective_is_refused(network):
    with pytest.raises(TypeError, match=r"the regulariser must be .*pass an object such as WeightDecay"):
        Objective(network, CrossEntropy(), 0.1)
    with pytest.raises(TypeError, match=r"the likelihood must be .*pass an object such as CrossEntropy"):
        Objective(network, "cross-entropy")
    with pytest.raises(ValueError, match="regulariser_weight must be"):
        Objective(network, CrossEntropy(), WeightDecay(0.1), -0.5)


def test_a_batchs_targets_are_held_against_its_outputs(network, data):
    """Of data that are read when they pass nothing else sees all targets."""
    objective, batch = Objective(network, CrossEntropy()), data.batch()
    outputs = objective.outputs(objective.params, batch.inputs)
    objective.check_batch(outputs, batch, data.name, data.ids)
    wrong = replace(batch, targets=batch.targets.clone())
    wrong.targets[5] = 3
    with pytest.raises(ValueError, match=rf"3 .*id {int(data.ids[5])}"):
        objective.check_batch(outputs, wrong, data.name, data.ids)
