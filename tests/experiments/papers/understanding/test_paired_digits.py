import re
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
import torch

from bayes_influence.experiments.papers.understanding import paired_digits
from bayes_influence.experiments.papers.understanding.convolutions import tanh_convolutions
from bayes_influence.experiments.papers.understanding.paired_digits import PairScale, PairStudy, on_learned_features


@dataclass(frozen=True)
class Pairs(PairStudy):
    NAME: ClassVar[str] = "pairs"
    FULL_MINUTES: ClassVar[float] = 1
    SCALES: ClassVar[Any] = {"quick": PairScale(repeats=1, side=4, train=20, feature_images=60, width=2)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_images": 9}, "feature_images must be at least 10, got 9"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Pairs(**settings)


@pytest.mark.parametrize("flat", [True, False])
def test_images_for_the_features_are_others_than_those_of_the_pair(pair, flat):
    others, drawn = Pairs().drawn(0, flat=flat)
    assert (len(others), len(drawn.train)) == (60, 20)
    assert set(others.targets.tolist()) == {0, 1, 2}
    assert not set(others.ids.tolist()) & set(drawn.train.ids.tolist())
    assert others.inputs.shape[1:] == drawn.test.inputs.shape[1:] == ((16,) if flat else (1, 4, 4))
    for part, whole in ((drawn.train, pair.train), (drawn.test, pair.test)):
        assert part.class_names == ("a", "c")
        assert torch.equal(2 * part.targets, whole.at(part.ids).targets)
    again, other = Pairs().drawn(0)[0].ids, Pairs().drawn(1)[0].ids
    assert torch.equal(others.ids, again)
    assert not torch.equal(others.ids, other)


def test_too_few_images_of_the_pair_are_said(pair, monkeypatch):
    monkeypatch.setattr(paired_digits, "IMAGES_PER_PAIRED", 1)
    with pytest.raises(ValueError, match=r"only \d+ of the images are of the pair \(0, 2\), got train=20; take fewer"):
        Pairs().drawn(0)


def test_the_network_has_features_of_other_images_and_its_last_layer_at_a_minimum(pair):
    others, drawn = Pairs().drawn(0, flat=False)
    train, make = drawn.train, partial(tanh_convolutions, 4, 2, seed=0)
    found = on_learned_features(make, others, train, 0.01, 0)
    fewer = on_learned_features(make, others, train.select(range(12)), 0.01, 0)
    untrained = dict(make(2).double().named_parameters())
    assert set(found.names) == {"5.weight", "5.bias"}
    for name, value in found.params.items():
        assert torch.equal(value, fewer.params[name]) == (not name.startswith("5."))
        assert not torch.equal(value, untrained[name])
    flat = found.flat
    slope = torch.func.grad(lambda at: flat.losses(at, train.batch()).mean())(flat.theta) + 0.01 * flat.theta
    assert float(slope.norm()) < 1e-9
