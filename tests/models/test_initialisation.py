import pytest
import torch
from torch import nn

from bayes_influence.models.initialisation import initial_params, seeded
from bayes_influence.models.mlp import MLP


def make_network():
    return MLP(4, 3, width=6, depth=2)


def test_member_equals_building_that_network_alone():
    seeds = [3, 0, 12]
    stacked = initial_params(make_network, seeds, torch.float64)
    for index, seed in enumerate(seeds):
        torch.manual_seed(seed)
        alone = make_network().double()
        for name, value in alone.named_parameters():
            assert torch.equal(stacked[name][index], value)


def test_a_member_does_not_depend_on_the_others():
    together = initial_params(make_network, [7, 8, 9])
    alone = initial_params(make_network, [9])
    assert all(torch.equal(together[name][2], alone[name][0]) for name in alone)


def test_global_generator_is_left_alone():
    torch.manual_seed(2)
    before = torch.get_rng_state()
    initial_params(make_network, range(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_dtype_and_detachment():
    own, cast = initial_params(make_network, [0]), initial_params(make_network, [0], torch.float64)
    assert {value.dtype for value in own.values()} == {torch.float32}
    assert {value.dtype for value in cast.values()} == {torch.float64}
    assert not any(value.requires_grad for value in own.values())


def test_seeded_none_draws_from_the_global_generator():
    torch.manual_seed(4)
    expected = torch.randn(3)
    torch.manual_seed(4)
    with seeded(None):
        drawn = torch.randn(3)
    assert torch.equal(drawn, expected)


def test_generator_is_restored_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="inconsistent tensor size"), seeded(1):
        torch.randn(3) @ torch.randn(4)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_seeds():
    with pytest.raises(ValueError, match="at least one seed, got none"):
        initial_params(make_network, [])


def test_members_of_different_architectures():
    widths = iter([2, 3])
    with pytest.raises(ValueError, match=r"share one architecture, but seed 1 gave .* seed 0 gave"):
        initial_params(lambda: nn.Linear(next(widths), 1), [0, 1])
