import logging
import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from tqdm.auto import tqdm

from bayes_influence.models.ensemble import NetworkEnsemble
from bayes_influence.objectives.derivatives import gradient
from bayes_influence.objectives.ensembles import EnsembleCrossEntropy
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training import minimum, newton
from bayes_influence.training.minimum import minimised, minimum_of
from bayes_influence.training.stacked import StackedProblem
from tests.fitted import DECAY, tanh_network
from tests.references import softmax_regression_minimum


def regression(decay=DECAY, dtype=torch.float64):
    torch.manual_seed(0)
    regulariser = WeightDecay(decay) if decay else None
    return Objective(nn.Sequential(nn.Linear(3, 3)).to(dtype), CrossEntropy(), *([regulariser] if regulariser else []))


@pytest.mark.parametrize("dense", [True, False], ids=["newton", "lbfgs"])
def test_the_minimum_of_a_convex_objective_is_that_of_a_solver_of_its_own(train, monkeypatch, dense):
    monkeypatch.setattr(minimum, "DENSE_SIZE", 12 if dense else 11)
    seen = []
    for name in ("minimise_newton", "minimise_lbfgs"):
        original = getattr(minimum, name)
        monkeypatch.setattr(minimum, name, lambda *a, o=original, n=name, **k: seen.append(n) or o(*a, **k))
    found = minimum_of(regression(), train, tolerance=1e-8)
    assert seen == ["minimise_newton" if dense else "minimise_lbfgs"]
    weight, bias = softmax_regression_minimum(train.inputs, train.targets, np.ones(40), DECAY, 3)
    np.testing.assert_allclose(found.params["0.weight"], weight, atol=1e-6)
    np.testing.assert_allclose(found.params["0.bias"], bias, atol=1e-6)
    assert float(gradient(found, train.batch()).norm()) <= 1e-8


@pytest.mark.parametrize("entries", [40 * 31, 40 * 31 - 1], ids=["few", "many"])
def test_a_whole_network_goes_by_newton_where_its_hessian_costs_little(train, monkeypatch, entries):
    """tanh_network has 31 parameters, train 40 examples."""
    monkeypatch.setattr(minimum, "RENEWED_ENTRIES", entries)
    seen = []
    for name in ("minimise_newton", "minimise_lbfgs"):
        original = getattr(minimum, name)
        monkeypatch.setattr(minimum, name, lambda *a, o=original, n=name, **k: seen.append(n) or o(*a, **k))
    objective = Objective(tanh_network().double(), CrossEntropy(), WeightDecay(DECAY))
    assert objective.layout.total == 31
    found = minimum_of(objective, train, tolerance=1e-7)
    assert set(seen) == {"minimise_newton" if entries == 40 * 31 else "minimise_lbfgs"}
    assert float(gradient(found, train.batch()).norm()) <= 1e-7


@pytest.mark.parametrize("given", [False, True])
def test_members_that_rounding_stopped_go_on_by_newton(network, train, monkeypatch, given):
    """Of two, the first is done after the first descent and stays as it is."""
    monkeypatch.setattr(minimum, "RENEWED_ENTRIES", 0)
    there = network.at(0)
    start = torch.stack([there.flat.theta, there.flat.theta + 1e-6])
    problem = StackedProblem(there, there.layout.unflatten(start), train.batch())
    hessians = problem.hessians(start, problem.everyone) if given else None
    descend = minimum.minimise_lbfgs
    monkeypatch.setattr(minimum, "minimise_lbfgs", lambda *one, **options: descend(*one, **options, max_iterations=0))
    found = minimum.minimise(problem, tolerance=1e-10, hessians=hessians)
    assert found.converged.all()
    ends = problem.layout.flatten(found.free)
    assert torch.equal(ends[0], start[0])
    torch.testing.assert_close(ends[1], start[0], rtol=0, atol=1e-8)
    gradients, values = problem.gradients(ends, problem.everyone)
    torch.testing.assert_close(found.values, values)
    torch.testing.assert_close(found.gradient_norms, gradients.norm(dim=1))


@pytest.mark.parametrize("size", [12, 11], ids=["newton", "lbfgs"])
def test_progress_is_shown_where_it_is_asked_for(train, monkeypatch, capsys, size):
    monkeypatch.setattr(minimum, "DENSE_SIZE", size)
    monkeypatch.setattr(newton, "tqdm", partial(tqdm, mininterval=0, file=None))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    minimum_of(regression(), train, tolerance=1e-6, progress=True)
    assert re.search(r"to the minimum: \d+step .*gradient norm \d\.\de-\d\d", capsys.readouterr().err)
    minimum_of(regression(), train, tolerance=1e-6)
    assert capsys.readouterr().err == ""


def test_what_is_given_stays_where_it_was_and_the_minimum_is_in_double_precision(train):
    objective = regression(dtype=torch.float32)
    before = {name: value.clone() for name, value in objective.params.items()}
    found = minimum_of(objective, train.to(dtype=torch.float32))
    assert found.dtype == torch.float64
    assert all(torch.equal(value, objective.params[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("objective", "dtype", "why"),
    [
        (lambda: regression(0.0), torch.float64, "without a regulariser the minimum may lie at infinity"),
        (lambda: regression(), torch.float64, "activations with a kink have minima"),
        (lambda: regression(dtype=torch.float32), torch.float32, "in torch.float32 rounding keeps the norm up"),
    ],
)
def test_what_stops_above_its_tolerance_is_marked_with_the_likely_reason(
    train, caplog, monkeypatch, objective, dtype, why
):
    monkeypatch.setattr(minimum, "ROUNDING", 0.0)  # so that any norm is one that something else kept up
    with caplog.at_level(logging.WARNING):
        found = minimised(objective(), train.to(dtype=dtype), tolerance=0.0)
    assert not found.converged.any()
    assert "1 of 1 networks did not reach a gradient norm of 0.0e+00" in caplog.text
    assert why in caplog.text


def test_the_worst_of_several_networks_is_named(train, caplog):
    """The one whose gradient is largest where rounding stops both."""
    objectives = [regression().at({n: s * v for n, v in regression().params.items()}) for s in (1.0, 2.0)]
    with caplog.at_level(logging.WARNING):
        found = minimised(Members.of(objectives, ["the first", "the second"]), train, tolerance=0.0)
    assert not found.converged.any()
    norms = found.gradient_norms.tolist()
    worst = ("the first", "the second")[norms.index(max(norms))]
    assert norms[0] != norms[1]
    assert f"(worst: {max(norms):.1e}, {worst})" in caplog.text


def test_a_minimum_that_was_not_reached_is_no_minimum(train):
    kinked = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with pytest.raises(
        ValueError, match=r"the minimisation stopped at gradient norm .*, above 1e-10; add weight decay"
    ):
        minimum_of(Objective(kinked, CrossEntropy(), WeightDecay(DECAY)), train)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_objective_or_data_set_is_refused(train):
    with pytest.raises(TypeError, match="what is minimised"):
        minimum_of(nn.Linear(3, 3), train)
    with pytest.raises(TypeError, match="the training examples"):
        minimum_of(regression(), (train.inputs, train.targets))
    with pytest.raises(ValueError, match="tolerance"):
        minimised(regression(), train, tolerance=-1.0)


def test_what_a_minimisation_changed_is_said(train):
    objective = regression()
    pair = Members.of(objective)
    found = minimised(pair, train)
    batch = train.batch()
    assert float(found.values_before[0]) == pytest.approx(float(objective.value(objective.params, batch)))
    end = found.members.at(0)
    assert float(found.values[0]) == pytest.approx(float(end.value(end.params, batch)))
    before = gradient(objective, batch).norm()
    assert float(found.gradient_norms_before[0]) == pytest.approx(float(before))
    (sentence,) = found.sentences
    told = f"from {float(found.values_before[0]):.6g} to {float(found.values[0]):.6g}, its gradient norm from"
    assert sentence.startswith(f"polished {pair.labels[0]}: J, without the regulariser of other parameters, {told} ")
    assert f" from {float(before):.1e} to " in sentence


def test_the_value_of_a_last_layer_lacks_what_the_regulariser_has_of_the_rest(train):
    objective = Objective(tanh_network().double(), CrossEntropy(), WeightDecay(DECAY), parameters="last-layer")
    found = minimised(objective, train)
    whole = [float(one.value(one.params, train.batch())) for one in (objective, found.members.at(0))]
    assert float(found.values - found.values_before) == pytest.approx(whole[1] - whole[0], abs=1e-9)
    before = {name: value for name, value in objective.params.items() if name not in objective.names}
    rest = 0.5 * DECAY * float(sum(value.square().sum() for value in before.values()))
    assert float(found.values_before[0]) == pytest.approx(whole[0] - rest)


@pytest.mark.parametrize("tolerance", [0, 1e-30])
def test_rounding_is_named_where_nothing_else_is_left(train, caplog, tolerance):
    said = rf"stopped at gradient norm .*e-1\d, above {tolerance:.3g}; rounding ends there: take a tolerance of"
    with pytest.raises(ValueError, match=said):
        minimum_of(regression(), train, tolerance=tolerance)
    assert caplog.text.strip().endswith("; rounding ends there")


def test_what_is_said_of_a_deep_ensemble_is_of_its_own_objective(train):
    network = NetworkEnsemble([tanh_network(), tanh_network()]).double()
    ensemble = Objective(network, EnsembleCrossEntropy(), WeightDecay(DECAY / 2))
    found = minimised(ensemble, train, tolerance=1e-8)
    assert found.converged.all()
    for one, value, norm in (
        (ensemble, found.values_before, found.gradient_norms_before),
        (found.members.at(0), found.values, found.gradient_norms),
    ):
        torch.testing.assert_close(value[0], one.value(one.params, train.batch()))
        torch.testing.assert_close(norm[0], gradient(one, train.batch()).norm(), rtol=1e-3, atol=1e-12)
