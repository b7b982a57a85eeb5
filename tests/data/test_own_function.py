import pytest
import torch
from torch import nn

from bayes_influence.data import own_function
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.own_function import OwnFunction

DATA = Dataset(torch.randn(20, 3), torch.arange(20) % 2, torch.arange(20), "own")


def of(monkeypatch, returned):
    monkeypatch.setattr(own_function, "imported", lambda name: returned)
    return OwnFunction.named("module:make")


def build():
    return nn.Linear(3, 2)


def test_data_are_taken_as_they_are(monkeypatch):
    known = of(monkeypatch, lambda: (build, nn.CrossEntropyLoss(), DATA))
    split = known.split(torch.float32)
    assert (known.task, known.n_targets, len(split.train), len(split.test)) == ("classification", 1, 16, 4)
    assert torch.equal(split.train.inputs, DATA.at(split.train.ids).inputs)


def test_a_function_is_called_once_and_another_of_the_name_again(monkeypatch):
    calls = []

    def returned():
        calls.append(1)
        return build, nn.CrossEntropyLoss(), DATA

    assert of(monkeypatch, returned) is of(monkeypatch, returned)
    assert len(calls) == 1
    assert of(monkeypatch, lambda: (build, nn.MSELoss(), DATA)).task == "regression"


def test_a_test_part_of_ones_own_is_kept(monkeypatch):
    parts = Split(DATA.select(range(15)), DATA.select(range(15, 20)))
    known = of(monkeypatch, lambda: (build, nn.MSELoss(), parts))
    assert known.task == "regression"
    assert known.split(torch.float32).test.ids.tolist() == [15, 16, 17, 18, 19]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (3, "module:make must be a function without arguments, got int"),
        (lambda: DATA, "must return network, loss and data: .*; got bayes_influence's Dataset"),
        (lambda: (build, DATA), "got tuple of 2"),
        (
            lambda: (build(), nn.MSELoss(), DATA),
            "as network it returned torch's Linear; return its class, or a function",
        ),
        (lambda: (build, "mse", DATA), "as loss it returned str"),
        (lambda: (build, nn.MSELoss(), 3), "must be a Dataset, a torch Dataset or DataLoader, or a pair"),
    ],
)
def test_something_else_is_refused(monkeypatch, returned, message):
    with pytest.raises(TypeError, match=message):
        of(monkeypatch, returned)


def test_a_function_that_fails_is_named(monkeypatch):
    with pytest.raises(ValueError, match="module:make failed: ZeroDivisionError: division by zero"):
        of(monkeypatch, lambda: 1 / 0)


def test_a_loss_that_the_schemes_do_not_know_is_refused(monkeypatch):
    known = of(monkeypatch, lambda: (build, nn.HuberLoss(), DATA))
    with pytest.raises(TypeError, match=r"the schemes know the losses CrossEntropyLoss, .* got HuberLoss"):
        _ = known.task
