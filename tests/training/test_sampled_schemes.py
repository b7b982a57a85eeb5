import pytest
import torch

from bayes_influence.data.tables import leave_out, load_table
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.members import member
from bayes_influence.objectives.parameters import RHO
from bayes_influence.training.dropout import DroppedLinear
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import find_schemes

SPLIT = leave_out(load_table("iris"), 83)


def fit(names, seeds, epochs=120):
    return fit_schemes(
        find_schemes(names), lambda: MLP(4, 3).double(), SPLIT.train, seeds, Schedule(epochs, 0.03), tolerance=1e-9
    )


def accuracy(fits, index):
    objective = fits.at(index)
    outputs = objective.outputs(objective.params, SPLIT.train.inputs)
    values = outputs if isinstance(outputs, torch.Tensor) else outputs.expectation
    return float((values.argmax(-1) == SPLIT.train.targets).double().mean())


@pytest.mark.parametrize("name", ["dropout", "mean-field-vi", "ivon"])
def test_sampled_schemes_learn_and_members_depend_on_their_own_seed_only(name):
    (both,) = fit([name], [0, 1])
    (alone,) = fit([name], [1])
    assert min(accuracy(both, 0), accuracy(both, 1)) > 0.9
    for key, value in member(alone.params, 0).items():
        torch.testing.assert_close(both.params[key][1], value, rtol=1e-6, atol=1e-8)
    assert not torch.equal(both.params["0.weight"][0], both.params["0.weight"][1])


def test_dropout_is_linearised_without_dropping():
    (fits,) = fit(["dropout"], [0], epochs=5)
    objective = fits.at(0)
    assert isinstance(objective.network[2], DroppedLinear)
    one, other = (objective.outputs(objective.params, SPLIT.train.inputs) for _ in range(2))
    assert torch.equal(one, other)
    assert not fits.polished.any()


def test_mean_field_vi_ends_at_the_minimum_of_the_propagated_objective_in_its_last_layer():
    (fits,) = fit(["mean-field-vi"], [0])
    assert fits.polished.all()
    assert (fits.params["0.weight" + RHO].exp() > 0.05).any()


def test_swag_ends_where_swa_does():
    swag, swa = fit(["swag", "swa"], [0])
    for name, value in swa.params.items():
        torch.testing.assert_close(swag.params[name], value)
