"""What a network that fails on its inputs was given, and what it asks for."""

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.objectives.torch_errors import network_errors_in_words, torch_errors_in_words

INPUTS, CLASSES = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
DATA = bi.Dataset(INPUTS, CLASSES, torch.arange(6))


class WithLoss(nn.Module):
    """Computes its loss itself, whether it has targets or not."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x, labels=None):
        outputs = self.head(x)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}


class OnViews(WithLoss):
    def forward(self, x, *, targets=None):
        return self.head(x), targets.view(-1)


class Needing(WithLoss):
    def forward(self, x, labels):
        return self.head(x)


class OfTwo(WithLoss):
    def forward(self, x, mask):
        return self.head(x * mask)


class Broken(WithLoss):
    def forward(self, x):
        return self.head(x) + "1"


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
@pytest.mark.parametrize(
    ("network", "name"), [(WithLoss, "labels"), (Needing, "labels"), (OnViews, "targets")], ids=lambda one: str(one)
)
def test_a_network_that_needs_targets_says_so(network, name, parameters, as_installed):
    with pytest.raises(
        TypeError,
        match=f"the network fails: {network.__name__}.forward asks for '{name}', which it is not given: .* have "
        f"forward return its outputs alone where {name} is None, its default",
    ):
        bi.Influence.of(network(), nn.CrossEntropyLoss(), DATA, weight_decay=0.1, parameters=parameters)


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        (INPUTS, "1 by position"),
        (bi.Arguments(INPUTS, other=INPUTS), "1 by position and 'other' by name"),
        (bi.Arguments(INPUTS, INPUTS, INPUTS), "3 by position"),
    ],
)
def test_a_network_with_other_arguments_says_which(inputs, given, as_installed):
    objective = bi.Objective(OfTwo(), bi.CrossEntropy(), bi.WeightDecay(0.1))
    with pytest.raises(TypeError, match=rf"OfTwo.forward takes \(x, mask\), and an example's inputs are {given}; give"):
        bi.Influence(objective, bi.Dataset(inputs, CLASSES, torch.arange(6)), damping=1.0)
    named = bi.Dataset(bi.Arguments(x=INPUTS, mask=INPUTS), CLASSES, torch.arange(6))
    assert torch.isfinite(bi.Influence(objective, named, damping=1.0).on_loss(named).values).all()


def test_an_error_within_a_network_that_has_all_its_arguments_stays_as_it_is():
    with (
        pytest.raises(TypeError, match=r"^(?!.*Broken\.forward).*str"),
        network_errors_in_words("it", Broken(), INPUTS),
    ):
        Broken()(INPUTS)


def test_an_error_of_torch_says_what_was_given():
    with (
        pytest.raises(
            ValueError, match=r"it fails on float32 of shape \(6, 4\) \(mat1 and mat2 shapes .*; give it the"
        ),
        torch_errors_in_words("it fails", INPUTS),
    ):
        nn.Linear(3, 2)(INPUTS)
