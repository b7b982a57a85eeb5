import pytest
import torch

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.data.tables import leave_out
from bayes_influence.models.mlp import MLP
from bayes_influence.retraining.held_out import hardest_example, held_out_losses
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES

SHORT = Schedule(60, 0.02)


@pytest.fixture(scope="module")
def data():
    return logistic_classes(30, n_features=3, n_classes=3, scale=2.0, seed=0).dataset


def make_network():
    return MLP(3, 3, width=4, activation="tanh")


@pytest.mark.parametrize("name", ["weight-decay", "swa", "bnn"])
def test_held_out_losses_are_those_of_networks_trained_alone(data, name):
    ids = torch.tensor([4, 21])
    losses = held_out_losses(data, ids, make_network, SCHEMES[name], SHORT, seed=3)
    for index, loss in zip(ids, losses, strict=True):
        split = leave_out(data, int(index))
        (fits,) = fit_schemes([SCHEMES[name]], make_network, split.train, [3], SHORT, tolerance=None)
        objective = fits.at(0)
        torch.testing.assert_close(loss, objective.losses(objective.params, split.test.batch())[0])


def test_the_hardest_example_has_the_largest_held_out_loss(data):
    scheme = SCHEMES["weight-decay"]
    losses = held_out_losses(data, data.ids, make_network, scheme, SHORT)
    assert hardest_example(data, make_network, scheme, SHORT, candidates=15) == int(data.ids[losses.argmax()])


def test_an_unknown_example_is_refused(data):
    with pytest.raises(ValueError, match=r"no example has id \[30\]"):
        held_out_losses(data, torch.tensor([30]), make_network, SCHEMES["none"], SHORT)


def test_a_mask_names_no_examples(data, as_installed):
    with pytest.raises(TypeError, match="ids must be whole numbers, got booleans"):
        held_out_losses(data, data.ids < 3, make_network, SCHEMES["none"], SHORT)
