import pandas as pd
import pytest
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
