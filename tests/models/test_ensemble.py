import pytest
import torch
from torch import nn

from bayes_influence.models.ensemble import NetworkEnsemble


def test_outputs_of_the_members_stand_side_by_side():
    members = [nn.Linear(4, 3) for _ in range(3)]
    x = torch.randn(5, 4)
    outputs = NetworkEnsemble(members)(x)
    assert outputs.shape == (5, 3, 3)
    for index, member in enumerate(members):
        assert torch.equal(outputs[:, index], member(x))


def test_a_layer_has_its_counterpart_in_every_member():
    nested = NetworkEnsemble([nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)) for _ in range(2)])
    assert nested.counterparts("members.1.0") == ["members.0.0", "members.1.0"]
    flat = NetworkEnsemble([nn.Linear(4, 3) for _ in range(2)])
    assert flat.counterparts("members.0") == ["members.0", "members.1"]


def test_one_network_is_no_ensemble():
    with pytest.raises(ValueError, match="an ensemble needs at least 2 networks, got 1"):
        NetworkEnsemble([nn.Linear(4, 3)])
