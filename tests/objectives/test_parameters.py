import pytest
import torch
from torch import nn

from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.members import member, stack_members
from bayes_influence.objectives.parameters import (
    Flattening,
    detached_params,
    owners_of_parameters,
    select_names,
)


def test_selections_name_what_they_say(network):
    bayesian = to_bayesian(network)
    assert select_names(network, "all") == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert select_names(network, "last-layer") == ("2.weight", "2.bias")
    assert set(select_names(bayesian, "last-layer")) == {"2.weight", "2.bias", "2.weight_rho", "2.bias_rho"}
    assert set(select_names(bayesian, "means")) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert set(select_names(bayesian, "last-layer-means")) == {"2.weight", "2.bias"}
    assert select_names(network, ["2.bias", "0.weight"]) == ("0.weight", "2.bias")


@pytest.mark.parametrize(
    ("selection", "message"),
    [("head", "unknown parameters 'head'; known: all"), (["3.weight"], r"unknown parameters \['3.weight'\]")],
)
def test_unknown_selections_are_refused(network, selection, message):
    with pytest.raises(ValueError, match=message):
        select_names(network, selection)


def test_a_network_without_parameters_has_no_last_layer():
    with pytest.raises(ValueError, match="Tanh has no parameters"):
        owners_of_parameters(nn.Tanh())


def test_flattening_is_inverted_for_one_network_and_for_a_stack(network):
    params = {**detached_params(network), "a number": torch.tensor(3.0)}
    layout = Flattening.of(params)
    assert layout.total == sum(value.numel() for value in params.values())
    stacked = stack_members([params, {name: 2 * value for name, value in params.items()}])
    for lead, values in (((), params), ((2,), stacked)):
        flat = layout.flatten(values)
        assert flat.shape == (*lead, layout.total)
        restored = layout.unflatten(flat)
        assert all(torch.equal(restored[name], values[name]) for name in values)
    assert torch.equal(member(stacked, 1)["2.bias"], 2 * params["2.bias"])


def test_detached_params_do_not_follow_the_module(network):
    params = detached_params(network)
    with torch.no_grad():
        network[0].weight.add_(1)
    assert not torch.equal(params["0.weight"], network[0].weight)
    assert not params["0.weight"].requires_grad
