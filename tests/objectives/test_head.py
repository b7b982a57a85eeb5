import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Batch
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.derivatives import dense_hessian, gradient
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.head import features, head_params, head_problem, reduced_problem, stacked_features
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay


@pytest.mark.parametrize("bayesian", [False, True])
@pytest.mark.parametrize("selection", ["last-layer", "last-layer-means", ["2.bias"]])
def test_the_head_has_the_derivatives_of_the_whole_network(network, data, bayesian, selection):
    if bayesian:
        objective = Objective(to_bayesian(network).double(), TiltedCategorical(), GaussianKL(30), parameters=selection)
    else:
        objective = Objective(network, CrossEntropy(), WeightDecay(0.1), parameters=selection)
    head, batch = head_problem(objective, data.batch())
    assert head.names == objective.names
    assert torch.allclose(gradient(head, batch), gradient(objective, data.batch()), atol=1e-14)
    assert torch.allclose(dense_hessian(head, batch), dense_hessian(objective, data.batch()), atol=1e-14)


def test_stacked_features_are_each_member_s_own(network, data):
    objective = Objective(network, CrossEntropy(), parameters="last-layer")
    stacked = stack_members([objective.params, {name: -value for name, value in objective.params.items()}])
    both = stacked_features(objective, stacked, data.inputs)
    assert torch.allclose(both[0], features(objective, objective.params, data.inputs))
    assert torch.allclose(both[1], -both[0])  # tanh is odd
    assert set(head_params(objective, stacked)) == {"2.weight", "2.bias"}


def test_reduction_leaves_other_selections_alone(network, data):
    objective = Objective(network, CrossEntropy())
    assert reduced_problem(objective, data.batch())[0] is objective


def test_a_selection_beyond_the_last_layer_is_refused(network, data):
    with pytest.raises(ValueError, match="reaches beyond the last layer '2'"):
        head_problem(Objective(network, CrossEntropy()), data.batch())


def test_an_output_that_is_not_the_last_layer_s_is_refused(data):
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    objective = Objective(network, CrossEntropy(), parameters="last-layer")
    with pytest.raises(ValueError, match="not its last layer's output"):
        head_problem(objective, data.batch())


@pytest.mark.parametrize("bayesian", [False, True])
def test_a_network_that_is_one_layer_is_its_own_head(data, bayesian):
    layer = nn.Linear(4, 3).double()
    if bayesian:
        whole = Objective(to_bayesian(layer).double(), TiltedCategorical(), GaussianKL(30), parameters="last-layer")
    else:
        whole = Objective(layer, CrossEntropy(), WeightDecay(0.1), parameters="last-layer")
    head, batch = head_problem(whole, data.batch())
    assert head.names == whole.names
    assert torch.equal(gradient(head, batch), gradient(whole, data.batch()))
    assert set(head_params(whole, whole.params)) == set(whole.params)


def test_a_layer_that_is_called_twice_is_refused(data):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4).double()

        def forward(self, inputs):
            return self.layer(self.layer(inputs))

    objective = Objective(Twice(), CrossEntropy(), parameters="last-layer")
    with pytest.raises(ValueError, match="called 2 times"):
        head_problem(objective, Batch(data.inputs, data.targets))
