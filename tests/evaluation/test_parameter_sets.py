"""Last layer against all parameters, with retrainings whose answer is known: parameters moved as one of them says."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.evaluation.intervals import Interval
from bayes_influence.evaluation.parameter_sets import FAIR_CORRELATION, MIN_CEILING, ParameterSets
from bayes_influence.evaluation.statistics import spearman

SETTINGS = {"subsets": 12, "removed": 0.2, "damping": 0.05}


def moved_as_predicted(objective, train, parameters, noise=0.0):
    """A retraining that does what influence in some parameters says, up to noise of the seed."""
    influence = bi.Influence(objective.taking(parameters), train, damping=0.05)
    changes, layout = influence.on_parameters(), influence.problem.reduced.layout

    def retrain(examples, seed):
        gone = torch.ones(len(train), dtype=torch.bool)
        gone[train.positions(examples.ids)] = False
        change = layout.unflatten(changes[gone].sum(dim=0))
        generator = torch.Generator().manual_seed(1000 * seed + int(gone.nonzero().sum()))
        network = copy.deepcopy(objective.network)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                own = next((value for key, value in change.items() if name.endswith(key)), 0)
                parameter += own + noise * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return network

    return retrain


@pytest.fixture
def problem(network, train):
    return network.at(0), train


@pytest.mark.parametrize(("parameters", "other"), [("all", "last_layer_lds"), ("last-layer", "every_lds")])
def test_retraining_supports_what_it_follows(problem, test, parameters, other):
    objective, train = problem
    retrain = moved_as_predicted(objective, train, parameters)
    found = bi.compare_parameters(objective, train, test, retrain, **SETTINGS)
    right = found.every_lds if parameters == "all" else found.last_layer_lds
    assert right.score.estimate > 0.9
    assert right.score.estimate - getattr(found, other).score.estimate == pytest.approx(abs(found.difference.estimate))
    assert found.ceiling == pytest.approx(1)
    assert found.supported == parameters
    assert f"Retraining supports {'all parameters' if parameters == 'all' else 'the last layer'} (LDS" in found.sentence


def test_noise_supports_neither(problem, test):
    objective, train = problem
    retrain = moved_as_predicted(objective, train, "all", noise=3.0)
    found = bi.compare_parameters(objective, train, test, retrain, **SETTINGS)
    assert found.ceiling < 0.5
    assert found.supported is None
    assert "Retraining does not tell which is better" in found.sentence


@pytest.mark.parametrize(
    ("low", "high", "ceiling", "supported"),
    [
        (0.01, 0.3, 0.9, "all"),
        (0.0, 0.3, 0.9, None),
        (-0.3, -0.01, 0.9, "last-layer"),
        (-0.3, 0.0, 0.9, None),
        (-0.3, 0.3, 0.9, None),
        (0.01, 0.3, MIN_CEILING, "all"),
        (0.01, 0.3, MIN_CEILING - 1e-9, None),
        (-0.3, -0.01, np.nan, None),
    ],
)
def test_an_interval_beside_0_tells_where_retraining_repeats_itself(low, high, ceiling, supported):
    scores = bi.InfluenceScores(torch.ones(1, 2), torch.arange(2), torch.arange(1))
    difference = Interval((low + high) / 2, low, high, 0.95, 1, 0)
    found = ParameterSets(scores, scores, np.ones(1), ceiling=ceiling, difference=difference)
    assert found.supported == supported


def test_a_median_of_fair_correlations_is_no_disagreement():
    scores = bi.InfluenceScores(torch.ones(3, 2), torch.arange(2), torch.arange(3))
    assert not ParameterSets(scores, scores, np.array([-1, FAIR_CORRELATION, 1])).disagree
    assert ParameterSets(scores, scores, np.array([-1, FAIR_CORRELATION - 1e-9, 1])).disagree


def test_rank_agreement_is_spearmans_over_training_examples(problem, test):
    objective, train = problem
    found = bi.compare_parameters(objective, train, test, damping=0.05)
    last, every = (
        bi.Influence(objective.taking(parameters), train, damping=0.05).on_loss(test).removal.numpy()
        for parameters in ("last-layer", "all")
    )
    np.testing.assert_allclose(found.rank_agreement, spearman(last, every))
    assert found.every_lds is None
    assert "pass `retrain` to see which of them retraining supports" in found.sentence


def test_a_network_of_one_layer_agrees_with_itself(regression, train, test):
    found = bi.compare_parameters(regression.at(0), train, test, damping=0.0)
    np.testing.assert_allclose(found.rank_agreement, 1)
    assert not found.disagree


def test_disagreement_is_a_warning(train, test, caplog):
    """A last layer whose inputs are all but constant ranks by bias and targets alone."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        network[0].weight *= 1e-3
        network[2].weight *= 10
    objective = bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.05))
    with caplog.at_level("WARNING"):
        found = bi.compare_parameters(objective, train, test, curvature="ggn", damping=0.01)
    assert found.disagree == ("in all parameters disagree: median Spearman" in caplog.text)
    assert found.disagree


@pytest.mark.parametrize(
    "wrong", [{"subsets": 2}, {"seeds": 1}, {"removed": 0.0}, {"removed": 1.0}], ids=lambda wrong: next(iter(wrong))
)
def test_too_little_to_compare(problem, test, wrong):
    with pytest.raises(ValueError, match="need 3 subsets, 2 seeds and a share that leaves out some of 40"):
        bi.compare_parameters(*problem, test, lambda examples, seed: None, **wrong)


def test_what_is_no_objective_or_no_data_is_refused(problem, test, as_installed):
    objective, train = problem
    with pytest.raises(TypeError, match="what influence is taken of"):
        bi.compare_parameters(objective.network, train, test)
    with pytest.raises(TypeError, match="the training examples"):
        bi.compare_parameters(objective, train.inputs, test)
    with pytest.raises(TypeError, match="the test examples"):
        bi.compare_parameters(objective, train, test.inputs)


def test_the_interval_of_the_difference_holds_the_middle_95_per_cent(problem, test, monkeypatch):
    objective, train = problem
    asked = []
    monkeypatch.setattr(np, "nanquantile", lambda drawn, levels: asked.append(levels) or np.quantile(drawn, levels))
    bi.compare_parameters(objective, train, test, moved_as_predicted(objective, train, "all"), **SETTINGS)
    assert [0.025, 0.975] in asked


def test_a_retraining_that_returns_no_network(problem, test):
    with pytest.raises(TypeError, match=r"retrain must return the trained network, an nn.Module, got"):
        bi.compare_parameters(*problem, test, lambda examples, seed: None, **SETTINGS)
