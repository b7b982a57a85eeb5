import pytest
import torch

from bayes_influence.data.tables import leave_out, load_table
from bayes_influence.experiments.papers.fragility.published_code import (
    LastIterate,
    drops_bias,
    lissa_summed,
    plain_inverse_effects,
    positions_in_shuffled_pass,
    weight_only,
    without_regulariser,
)
from bayes_influence.influence.influence import Influence
from bayes_influence.models.initialisation import initial_params
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.schemes import SCHEMES


@pytest.fixture(scope="module")
def split():
    return leave_out(load_table("iris"), 83)


@pytest.fixture(scope="module")
def fitted(split):
    (fits,) = fit_schemes([SCHEMES["weight-decay"]], lambda: MLP(4, 3, 5), split.train, [0], Schedule(300))
    return fits.at(0)


def test_the_plain_inverse_is_influence_where_there_is_an_inverse(fitted, split):
    expected = Influence(fitted, split.train, damping=0.0).on_loss(split.test).removal[0]
    assert torch.allclose(plain_inverse_effects(fitted, split.train, split.test), expected, rtol=1e-6, atol=1e-12)


def test_what_is_added_is_a_damping(fitted, split):
    expected = Influence(fitted, split.train, damping=0.5).on_loss(split.test).removal[0]
    found = plain_inverse_effects(fitted, split.train, split.test, added=0.5)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_without_the_regulariser_a_softmax_layer_s_hessian_is_singular_and_its_inverse_noise(fitted, split):
    alone = without_regulariser(fitted)
    layer = weight_only(alone, split.train, dropped=False)
    hessian = dense_hessian(layer, split.train.batch())
    assert int(torch.linalg.matrix_rank(hessian, hermitian=True)) <= len(hessian) - 5
    single = alone.to(dtype=torch.float32)
    exact = Influence(alone, split.train, damping=1e-6).on_loss(split.test).removal[0]
    train, test = split.train.to(dtype=torch.float32), split.test.to(dtype=torch.float32)
    noisy = plain_inverse_effects(single, train, test)
    assert not torch.allclose(noisy, exact, rtol=0.1, atol=float(exact.abs().max()) / 10)


def test_an_inverse_that_fails_gives_no_numbers(split):
    network = MLP(4, 3, depth=0)
    torch.nn.init.zeros_(network[0].weight)
    zero = Objective(network, lambda outputs, targets: 0.0 * outputs.sum(-1)).to(dtype=torch.float64)
    assert torch.isnan(plain_inverse_effects(zero, split.train, split.test)).all()


def test_the_bias_is_held_or_left_out_of_the_network(fitted, split):
    held, dropped = (weight_only(fitted, split.train, dropped=dropped) for dropped in (False, True))
    assert held.names == dropped.names == ("2.weight",)
    assert torch.equal(held.params["2.bias"], fitted.params["2.bias"])
    assert not dropped.params["2.bias"].any()


def test_series_differ_in_what_becomes_of_the_bias():
    assert not drops_bias("weight-decay", 3, 5)
    assert drops_bias("none", 1, 5)
    assert not drops_bias("none", 1, 50)
    assert drops_bias("swa", 1, 50)
    assert drops_bias("bnn", 1, 50)


def test_summed_lissa_is_the_sum_of_its_iterates():
    hessian = torch.diag(torch.tensor([0.5, 2.0], dtype=torch.float64))
    rhs = torch.tensor([1.0, 1.0], dtype=torch.float64)
    found, steps = lissa_summed(hessian, rhs)
    factors = 0.99 - torch.diag(hessian) / 10
    limits = 1 / (1 - factors)
    iterates = [limits * (1 - factors ** (step + 1)) for step in range(1, steps + 1)]
    assert torch.allclose(found, torch.stack(iterates).sum(0) / 10)
    solved = torch.linalg.solve(hessian + 0.1 * torch.eye(2, dtype=torch.float64), rhs)
    assert found[0] / found[1] != pytest.approx(float(solved[0] / solved[1]), rel=1e-2)


def test_a_shuffled_pass_gives_every_score_another_place():
    scores = torch.arange(100.0)
    found = positions_in_shuffled_pass(scores, torch.Generator().manual_seed(0))
    assert torch.equal(found.sort().values, scores)
    assert not torch.equal(found, scores)


def test_the_last_iterate_is_kept_beside_the_average(split):
    objective = Objective(MLP(4, 3, 5).double(), SCHEMES["none"].objective(MLP(4, 3, 5), 149).likelihood)
    start = initial_params(lambda: MLP(4, 3, 5), [0], torch.float64)
    last = LastIterate()
    averaged = torch.ones(1, dtype=torch.bool)
    swa = SWA(start=0.5)
    train_ensemble(objective, start, split.train.batch(), Schedule(6), averaged=averaged, averaging=swa, record=last)
    expected = train_ensemble(objective, start, split.train.batch(), Schedule(5)).params
    assert last.params is not None
    assert all(torch.allclose(last.params[name], value) for name, value in expected.items())
