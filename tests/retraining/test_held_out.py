import pytest
import torch
from torch import nn

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.data.tables import leave_out
from bayes_influence.models.mlp import MLP
from bayes_influence.retraining.held_out import hardest_example, held_out_losses
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from tests.fitted import Recurrent

SHORT = Schedule(60, 0.02)


@pytest.fixture(scope="module")
def data():
    return logistic_classes(30, n_features=3, n_classes=3, scale=2.0, seed=0).dataset


def make_network():
    return MLP(3, 3, width=4, activation="tanh")


def frozen():
    network = make_network()
    network[0].requires_grad_(False)
    return network


def normalised():
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


def with_random_buffers():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    network.register_buffer("order", torch.randperm(3))
    network.register_forward_pre_hook(lambda module, args: args[0][:, module.order])
    return network


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("weight-decay", make_network),
        ("swa", make_network),
        ("bnn", make_network),
        ("dropout", make_network),
        ("weight-decay", frozen),
        ("swa", normalised),
        ("none", with_random_buffers),
        ("weight-decay", Recurrent),
    ],
)
def test_held_out_losses_are_those_of_networks_trained_alone(data, name, make):
    ids = torch.tensor([4, 21])
    losses = held_out_losses(data, ids, make, SCHEMES[name], SHORT, seed=3)
    for index, loss in zip(ids, losses, strict=True):
        split = leave_out(data, int(index))
        (fits,) = fit_schemes([SCHEMES[name]], make, split.train, [3], SHORT, tolerance=None)
        objective = fits.at(0)
        torch.testing.assert_close(loss, objective.losses(objective.params, split.test.batch())[0])


@pytest.mark.parametrize("name", ["weight-decay", "dropout"])
def test_one_example_is_held_out_by_its_number(data, name):
    """Dropout's networks train one by one, those of weight decay as an ensemble, and one may be all there is."""
    scheme, short = SCHEMES[name], Schedule(5, 0.02)
    (alone,) = held_out_losses(data, 4, make_network, scheme, short)
    torch.testing.assert_close(alone, held_out_losses(data, [4, 21], make_network, scheme, short)[0])


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
