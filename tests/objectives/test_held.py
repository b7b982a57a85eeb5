import torch
from torch import nn

from bayes_influence.data.batch import Batch
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.held import held_per_example
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective


def batch_of(*shape):
    return Batch(torch.randn(*shape).double(), torch.arange(shape[0]) % 3)


def network(width=6):
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()


def held(objective, examples=9):
    return held_per_example(objective, batch_of(examples, 4))


def test_a_hidden_unit_is_held_before_and_behind_its_activation_there_and_back():
    narrow, wide = (held(Objective(network(width), CrossEntropy())) for width in (6, 106))
    assert wide - narrow == 4 * 100


def test_behind_a_fixed_part_nothing_goes_back_into_it():
    """Into the last layer's weight a gradient needs the hidden units, made on the way there and not back."""
    narrow, wide = (held(Objective(network(width), CrossEntropy(), parameters="last-layer")) for width in (6, 106))
    assert wide - narrow == 2 * 100


def test_it_does_not_grow_with_the_examples_nor_with_the_parameters_around_them():
    objective = Objective(network(), CrossEntropy())
    assert held(objective, 1) == held(objective, 3) == held(objective, 90)
    inputs = [
        held_per_example(Objective(nn.Linear(width, 3).double(), CrossEntropy()), batch_of(9, width))
        for width in (4, 400)
    ]
    assert inputs[0] == inputs[1]


def test_a_bayesian_network_holds_several_times_as_much_and_nothing_is_left_behind():
    objective = Objective(to_bayesian(network()), TiltedCategorical())
    assert held(objective) > 4 * held(Objective(network(), CrossEntropy()))
    assert all(value.grad is None and not value.requires_grad for value in objective.params.values())


def test_losses_that_depend_on_no_parameter_have_no_way_back():
    objective = Objective(network(), lambda outputs, targets: outputs.detach().square().sum(1))
    assert held(objective) < held(Objective(network(), lambda outputs, targets: outputs.square().sum(1)))


def test_zero_tangents_of_forward_mode_hold_nothing():
    """Behind a fixed part the derivatives come from forward mode, and some of their tangents are zero."""
    layers = [nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 3)]
    assert held(Objective(to_bayesian(nn.Sequential(*layers).double()), TiltedCategorical())) > 0
