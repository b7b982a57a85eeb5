"""With as much of the libraries as the adapters use; `python -m benchmarks.peers.adapters` has them whole."""

import sys
from types import SimpleNamespace

import pytest
import torch

import bayes_influence as bi
from bayes_influence.influence.adapters import as_explainer, as_valuation_result


@pytest.fixture
def influence(regression, train):
    return bi.Influence(regression.at(0), train, damping=0.0)


@pytest.fixture
def without_peers(monkeypatch):
    for module in ("pydvl.valuation.result", "quanda.explainers"):
        monkeypatch.setitem(sys.modules, module, None)


class Explainer:
    """As much of quanda's as is used."""

    def __init__(self, model, train_dataset):
        self.model, self.train_dataset = model, train_dataset


def test_values_are_mean_removal_effects(influence, test, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydvl.valuation.result", SimpleNamespace(ValuationResult=SimpleNamespace))
    scores = influence.on_loss(test)
    values = as_valuation_result(scores)
    assert values.algorithm == "influence"
    assert values.data_names.tolist() == scores.train_ids.tolist()
    assert values.values == pytest.approx(scores.removal.numpy().sum(axis=0) / len(test), rel=1e-12)
    assert values.values.dtype == "float64"


def test_explanations_are_removal_effects(influence, train, test, monkeypatch):
    monkeypatch.setitem(sys.modules, "quanda.explainers", SimpleNamespace(Explainer=Explainer))
    data = torch.utils.data.TensorDataset(train.inputs, train.targets)
    explainer = as_explainer(influence, data)
    assert explainer.model is influence.problem.objective.network
    assert explainer.train_dataset is data
    assert "image_classification" in explainer.accepted_tasks
    found = explainer.explain(test.inputs, test.targets.tolist())
    torch.testing.assert_close(found, influence.on_loss(test).removal)
    torch.testing.assert_close(explainer.self_influence(), influence.on_loss(train).removal.diagonal())
    assert (explainer.self_influence() > 0).all()


def test_a_library_that_is_not_there(influence, train, test, without_peers):
    with pytest.raises(ImportError, match=r"pyDVL is not installed, or not whole \(.*\); benchmarks/requirements.txt"):
        as_valuation_result(influence.on_loss(test))
    with pytest.raises(ImportError, match="quanda is not installed, or not whole"):
        as_explainer(influence, torch.utils.data.TensorDataset(train.inputs, train.targets))


def test_what_is_no_influence(train, as_installed):
    with pytest.raises(TypeError, match="values are made of InfluenceScores, got"):
        as_valuation_result(train)
    with pytest.raises(TypeError, match="an explainer is made of an Influence, got"):
        as_explainer(train, train)


def test_other_examples_than_the_influence_has(influence, train):
    fewer = torch.utils.data.TensorDataset(train.inputs[:5], train.targets[:5])
    with pytest.raises(ValueError, match="influence is that of 40 training examples, but the data set has 5; pass"):
        as_explainer(influence, fewer)
