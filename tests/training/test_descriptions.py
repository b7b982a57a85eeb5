import json

import pytest
import torch
from torch import nn

from bayes_influence.objectives.criteria import PerExample
from bayes_influence.objectives.expected_likelihoods import LIKELIHOODS, ExpectedBernoulli, ExpectedGaussian
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay
from bayes_influence.training.descriptions import described, restored, shown
from bayes_influence.training.schemes import SCHEMES


def through_json(value):
    return json.loads(json.dumps(described(value)))


@pytest.mark.parametrize(
    "value",
    [
        *LIKELIHOODS.values(),
        CrossEntropy((1.0, 0.1), label_smoothing=1 / 3),
        Bernoulli(),
        GaussianNoise(None),
        ExpectedBernoulli(),
        ExpectedGaussian(0.3),
        NoRegulariser(),
        WeightDecay(1e-3),
        GaussianKL(150, {"layer.weight": 0.1, "layer.bias": 2.0}),
        *SCHEMES.values(),
    ],
    ids=shown,
)
def test_what_the_library_has_comes_back_equal(value):
    found = restored(through_json(value), "likelihood")
    assert type(found) is type(value)
    assert found == value


def test_a_loss_of_torch_comes_back_with_its_options():
    loss = PerExample(nn.CrossEntropyLoss(label_smoothing=0.3, ignore_index=7))
    found = restored(through_json(loss), "likelihood")
    outputs, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 7, 1])
    assert torch.equal(found(outputs, targets), loss(outputs, targets))
    assert (found.criterion.label_smoothing, found.criterion.ignore_index) == (0.3, 7)


def mine(outputs, targets):
    return (outputs - targets).square().sum(-1)


@pytest.mark.parametrize("own", [mine, PerExample(mine), PerExample(nn.CrossEntropyLoss(torch.ones(3)))])
def test_what_is_the_users_own_is_asked_for_and_held_against_its_name(own):
    with pytest.raises(ValueError, match=r"a file can hold the name only; pass it, load\(path, network, likelihood="):
        restored(through_json(own), "likelihood")
    assert restored(through_json(own), "likelihood", own) is own
    with pytest.raises(ValueError, match=r"the likelihood that was saved is .*, but CrossEntropy\(.*\) came"):
        restored(through_json(own), "likelihood", CrossEntropy())


def test_numbers_that_differ_are_seen():
    with pytest.raises(ValueError, match=r"is WeightDecay\(decay=0.1\), but WeightDecay\(decay=0.2\) came"):
        restored(through_json(WeightDecay(0.1)), "regulariser", WeightDecay(0.2))


@pytest.mark.parametrize("name", ["system", "Objective", "Linear"])
def test_a_file_cannot_name_any_other_class(name):
    with pytest.raises(ValueError, match=rf"the scheme that was saved is a {name}, which this version does not know"):
        restored({"class": name, "command": "ls"}, "scheme")
    with pytest.raises(ValueError, match=rf"is torch's {name}, which is no loss of this torch"):
        restored({"loss": name}, "scheme")


def test_descriptions_are_shown_as_python_writes_them():
    assert shown(through_json(CrossEntropy((1.0, 0.5)))).startswith("CrossEntropy(class_weights=(1.0, 0.5), ")
    assert "prior_scale={'w': 0.5, 'b': 2.0}" in shown(through_json(GaussianKL(7, {"w": 0.5, "b": 2.0})))


class OwnLoss(nn.MSELoss):
    """A class of one's own whose name ends as torch's do."""


def test_only_torchs_own_losses_are_described_by_their_options():
    assert shown(through_json(PerExample(nn.MSELoss()))).startswith("MSELoss(")
    assert "OwnLoss(" not in shown(through_json(PerExample(OwnLoss())))
