import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.resnet import ResNet
from bayes_influence.models.vgg import VGG
from bayes_influence.moments import to_bayesian
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schemes import find_schemes
from bayes_influence.training.usual_moments import MOST_COLUMNS, usual_moments

EXACT = {"method": "exact", "structure": "calibrated-covariance"}


def test_convolutional_networks_have_exact_moments_and_their_covariance():
    assert usual_moments(LeNet(activation="relu"), on_table=False) == EXACT
    assert usual_moments(LeNet(activation="tanh"), on_table=False) == EXACT
    assert usual_moments(ResNet(batch_norm=True), on_table=False) == EXACT
    assert usual_moments(nn.Conv1d(1, 2, 3), on_table=False) == EXACT


def test_an_mlp_of_images_has_the_covariance_alone_and_one_of_a_table_what_its_scheme_has():
    network = MLP((1, 28, 28), 10, width=128, depth=2, activation="tanh")
    assert usual_moments(network, on_table=False) == {"method": "exact", "structure": "covariance"}
    assert usual_moments(network, on_table=True) == {}
    wide = MLP((1, 28, 28), 10, width=600, depth=2)
    assert usual_moments(wide, on_table=False) == {"method": "exact", "structure": "calibrated"}
    assert usual_moments(LeNet(), on_table=True) == EXACT


def test_wide_layers_and_layers_of_tokens_have_factors_alone():
    with torch.device("meta"):
        wide = VGG(13)
    assert usual_moments(wide, on_table=False) == {**EXACT, "structure": "calibrated"}
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    of_tokens = nn.Sequential(nn.Conv2d(1, 8, 2, stride=2), encoder)
    assert usual_moments(of_tokens, on_table=False)["structure"] == "calibrated"
    assert (
        usual_moments(nn.Sequential(nn.Conv1d(1, 8, 2), nn.LayerNorm(7)), on_table=False)["structure"] == "calibrated"
    )


@pytest.mark.parametrize(("outputs", "structure"), [(4, "calibrated-covariance"), (5, "calibrated")])
def test_layers_are_wide_by_the_columns_that_covariances_have(monkeypatch, outputs, structure):
    network = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(3, 6), nn.Linear(6, outputs))
    x = torch.randn(2, 1, 3)
    covariance = to_bayesian(network, structure="covariance")(x).covariance
    assert covariance.columns.shape[-2:] == (outputs, 9)
    monkeypatch.setattr("bayes_influence.training.usual_moments.MOST_COLUMNS", 4 * 9)
    assert MOST_COLUMNS > 10_080
    assert usual_moments(network, on_table=False)["structure"] == structure


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: ResNet(3, (1, 8, 8), width=3), lambda: VGG(11, 3, (1, 8, 8), width=0.05)])
def test_residual_and_deep_networks_train_under_theirs(make):
    data = Dataset(torch.randn(48, 1, 8, 8), torch.arange(48) % 3, torch.arange(48), "noise")
    schemes = find_schemes(["bnn"], {"prior": "fan-in", "initial_sigma": 0.2, **usual_moments(make(), on_table=False)})
    (fits,) = fit_schemes(schemes, make, data, [0], MinibatchSchedule(2, 16, 0.005), tolerance=None)
    last = [value for name, value in fits.at(0).buffers.items() if name.endswith("variance_factor")][-1]
    assert torch.isfinite(fits.at(0).value(fits.at(0).params, data.batch()))
    assert (last > 0).all()
    assert not (last == 1).any()
