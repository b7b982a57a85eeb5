import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from bayes_influence.influence.influence import Influence
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.members import member, stack_members
from bayes_influence.objectives.parameters import (
    Flattening,
    check_devices,
    detached_params,
    owners_of_parameters,
    select_names,
    standing_at,
    state_of,
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


def test_owners_hold_parameters_themselves(network):
    assert list(owners_of_parameters(nn.Sequential(network, nn.Tanh()))) == ["0.0", "0.2"]


class Gated(nn.Linear):
    """A layer with another one inside."""

    def __init__(self):
        super().__init__(4, 3)
        self.gate = nn.Linear(3, 3)


def test_a_last_layers_parameters_are_its_own():
    network = nn.Sequential(nn.Linear(2, 4), Gated())
    assert select_names(network, "last-layer", "1") == ("1.weight", "1.bias")
    assert select_names(network, "last-layer") == ("1.gate.weight", "1.gate.bias")


@pytest.mark.parametrize("word", ["all", "layers", "last-layer"])
def test_words_that_leave_frozen_parameters_only_are_refused(network, word):
    network.requires_grad_(False)
    with pytest.raises(ValueError, match=rf"^parameters='{word}' leaves nothing: \[.*\] are frozen"):
        select_names(network, word)
    assert select_names(network, ["0.bias"]) == ("0.bias",)


@pytest.mark.usefixtures("as_installed")
def test_only_the_networks_own_tensors_are_taken():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    params = detached_params(network)
    for wrong in ([1.0], {"0.weight": 1.0}, {**params, "0.bias": [0.0]}):
        with pytest.raises(TypeError, match=r"^params must be tensors by name, got .*for the network's own"):
            state_of(network, wrong, {})
    with pytest.raises(ValueError, match=r"parameter '0.bias' must have shape \(3,\), got \(1, 3\)"):
        state_of(network, {**params, "0.bias": torch.zeros(1, 3)}, {})
    with pytest.raises(ValueError, match=r"buffer '1.running_var' must have shape \(3,\), got \(2, 3\)"):
        state_of(network, params, {"1.running_var": torch.ones(2, 3)})
    with pytest.raises(ValueError, match=r"buffers must name the network's buffers .*, got \['mean'\]"):
        state_of(network, params, {"mean": torch.ones(3)})


class OnGpu:
    """A tensor as it would be on a device that is not here."""

    is_meta, device = False, torch.device("cuda:0")


def test_a_network_on_several_devices_or_without_values_is_refused(as_installed):
    here, without = torch.zeros(2), torch.zeros(2, device="meta")
    check_devices({"a": here, "b": here})
    with pytest.raises(ValueError, match=r"the network stands on cpu and cuda:0; .*: network\.to\('cpu'\)"):
        check_devices({"a": here, "b": OnGpu()})
    with pytest.raises(
        ValueError, match="'b' of the network has no values, it is on the meta device; load its weights"
    ):
        check_devices({"a": here, "b": without})


def test_influence_of_a_model_without_values_is_refused_before_any_work():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2, device="meta"))
    with pytest.raises(ValueError, match=r"'2\.weight' of the network has no values"):
        Influence.of(model, nn.CrossEntropyLoss(), (torch.randn(6, 3), torch.arange(6) % 2))


class Keeping(nn.Module):
    """Keeps what it computed last, wherever it was called from."""

    def __init__(self):
        super().__init__()
        self.linear, self.kept = nn.Linear(2, 2), []

    def forward(self, x):
        self.kept.append(self.linear(x))
        return self.kept[-1]


def test_what_was_kept_from_inside_a_transformation_does_not_keep_from_a_copy():
    network = Keeping()
    vmap(vmap(network))(torch.ones(3, 4, 2))
    grad(lambda x: network(x).sum())(torch.ones(2))
    copied = standing_at(network, detached_params(network), {})
    assert [tuple(value.shape) for value in copied.kept] == [(3, 4, 2), (2,)]
    torch.testing.assert_close(copied.kept[1], network.linear(torch.ones(2)))
    torch.testing.assert_close(copied(torch.ones(2)), network.linear(torch.ones(2)))
