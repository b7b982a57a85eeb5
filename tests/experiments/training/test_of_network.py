import pandas as pd
import pytest
import torch
from torch import nn

from bayes_influence.experiments.audit.settings import AuditedData
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.training.settings import TrainRun


@pytest.fixture
def told(tmp_path):
    path = tmp_path / "towns.csv"
    pd.DataFrame({"x": range(90), "y": ["n", "p", "p"] * 30}).to_csv(path, index=False)
    return {"dataset": str(path), "network": "mlp", "target": ("y",)}


@pytest.mark.parametrize("settings", [TrainRun, Study, AuditedData])
def test_an_mlp_is_the_same_in_every_training_when_nothing_is_said(told, settings):
    network = settings(**told).network_for((1,), 2)
    assert [type(module) for module in network] == [nn.Linear, nn.Tanh, nn.Linear]
    assert network[0].out_features == 32
    assert isinstance(settings(**told, activation="gelu").network_for((1,), 2)[1], nn.GELU)
    assert settings(**told).said_shape()["activation"] == "tanh"


def test_a_comparison_on_a_table_that_is_known_by_name_has_the_papers_network():
    assert isinstance(Study().network_for((4,), 3)[1], nn.SELU)
    assert isinstance(AuditedData().network_for((4,), 3)[1], nn.Tanh)
    assert isinstance(Study(batch_size=32).network_for((4,), 3)[1], nn.Tanh)


@pytest.mark.parametrize(
    "network", ["mlp", "lenet", "resnet", "vgg11", "tests.experiments.training.test_of_network:own"]
)
def test_a_blueprint_has_the_networks_modules_and_draws_nothing(network):
    activation = None if ":" in network else "leaky-relu"
    before = torch.get_rng_state()
    blueprint = TrainRun("mnist", network, activation=activation).blueprint()
    assert torch.equal(torch.get_rng_state(), before)
    kinds = {type(module) for module in blueprint.modules()}
    assert kinds >= ({nn.Conv1d, nn.GELU} if ":" in network else {nn.Linear, nn.LeakyReLU})
    assert (nn.Conv2d in kinds) == (network in ("lenet", "resnet", "vgg11"))


def own():
    return nn.Sequential(nn.Conv1d(1, 2, 3), nn.GELU())
