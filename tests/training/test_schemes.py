from dataclasses import dataclass, replace

import pytest

from bayes_influence.training.averaging import SWAG
from bayes_influence.training.schedules import SWA
from bayes_influence.training.schemes import (
    DEFAULT_SCHEMES,
    SCHEMES,
    Deterministic,
    Dropout,
    Variational,
    ensembles,
    find_schemes,
)


def grouped(*schemes):
    return [[scheme.name for scheme in group] for group in ensembles(schemes)]


def test_the_papers_schemes_train_in_two_ensembles():
    assert grouped(*find_schemes(DEFAULT_SCHEMES)) == [["none", "weight-decay", "swa", "weight-decay+swa"], ["bnn"]]


def test_whatever_is_trained_differently_trains_apart():
    names = ["swa", "swag", "dropout", "bnn", "bnn-evi", "mean-field-vi"]
    assert grouped(*find_schemes(names)) == [[name] for name in names]
    assert grouped(*find_schemes(["bnn", "bnn-tempered"])) == [["bnn", "bnn-tempered"]]


@pytest.mark.parametrize(
    ("scheme", "change"),
    [
        (Deterministic("a"), {"weight_decay": 0.1}),
        (Deterministic("a", averaging=SWA()), {"averaging": SWA(start=0.5)}),
        (Deterministic("a", averaging=SWA()), {"averaging": SWAG()}),
        (Dropout("a"), {"probability": 0.5}),
        (Variational("a"), {"prior": "fan-in"}),
        (Variational("a"), {"prior_scale": 2.0}),
        (Variational("a"), {"method": "exact"}),
        (Variational("a"), {"initial_sigma": 0.1}),
    ],
)
def test_one_number_that_differs_is_enough(scheme, change):
    assert grouped(scheme, replace(scheme, name="b", **change)) == [["a"], ["b"]]


def test_a_new_schemes_numbers_keep_it_apart_without_a_word_about_it():
    @dataclass(frozen=True)
    class Own(Deterministic):
        number: float = 1.0

    assert grouped(Own("a"), Own("b", number=2.0), Own("c"), Deterministic("d")) == [["a", "c"], ["b"], ["d"]]


def test_numbers_that_are_no_fields_count_too():
    class Hidden(Deterministic):
        def __init__(self, name, number):
            super().__init__(name)
            object.__setattr__(self, "number", number)

    assert grouped(Hidden("a", 1), Hidden("b", 2)) == [["a"], ["b"]]


def test_options_are_set_by_name():
    assert SCHEMES["weight-decay"].with_options(weight_decay=0.1) == Deterministic("weight-decay", weight_decay=0.1)
    assert SCHEMES["bnn"].with_options(prior_scale=2.0, regulariser_weight=0.5).prior_scale == 2.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {"weight_decay": 0.1}, "the scheme none has no option weight_decay; it has none"),
        ("swa", {"weight_decay": 0.1}, "the scheme swa has no option weight_decay; it has averaging"),
        ("dropout", {"weight_decay": 0.1}, "the scheme dropout has no option weight_decay; it has probability"),
        ("weight-decay", {"prior": "fan-in"}, "no option prior; it has regulariser_weight, weight_decay"),
        ("bnn", {"weight_decay": 0.1}, "the scheme bnn has no option weight_decay; it has regulariser_weight, like"),
    ],
)
def test_options_that_a_scheme_does_not_have_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        SCHEMES[name].with_options(**options)
