import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.groups.data import gaussian_classes
from bayes_influence.experiments.papers.regression import accuracy, fitted_regression, wrong_example
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of


def test_the_test_example_is_one_that_is_wrong():
    split = gaussian_classes(100, 60, seed=1)
    objective = fitted_regression(split.train, 0.01)
    example = wrong_example(objective, split.test)
    outputs = objective.outputs(objective.params, example.batch().inputs)
    assert int(outputs.argmax()) != int(example.targets[0])
    easy = Dataset(10.0 * torch.eye(2, dtype=torch.float64), torch.arange(2), torch.arange(2), name="easy")
    easily = minimum_of(Objective(nn.Linear(2, 2).double(), CrossEntropy(), WeightDecay(0.01)), easy)
    with pytest.raises(ValueError, match="all 2 test examples of easy are classified rightly; one error is needed"):
        wrong_example(easily, easy)


def test_accuracy_is_the_share_of_right_mean_outputs_of_a_bayesian_network_too():
    split = gaussian_classes(100, 60, seed=1)
    objective = fitted_regression(split.train, 0.01)
    outputs = objective.outputs(objective.params, split.test.inputs.double())
    expected = float((outputs.argmax(dim=1) == split.test.targets).double().mean())
    assert 0.5 < expected < 1
    assert accuracy(objective, split.test) == pytest.approx(expected)
    network = objective.network
    network.load_state_dict(objective.params)
    twin = Objective(to_bayesian(network), TiltedCategorical(), WeightDecay(0.01))
    assert accuracy(twin, split.test) == pytest.approx(expected)
    assert wrong_example(twin, split.test).ids.shape == (1,)
