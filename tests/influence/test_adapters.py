"""Refusals of the adapters; `python -m benchmarks.peers.adapters` holds them against the libraries themselves."""

import sys

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
