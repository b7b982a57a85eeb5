import inspect

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bayes_influence.moments import Moments, registry
from bayes_influence.moments.registry import apply_rule, functions_named, has_rule, rule


def test_a_name_stands_for_all_spellings():
    assert functions_named("relu") == [torch.relu, Tensor.relu, functional.relu]
    assert torch.float not in functions_named("float")


def test_a_name_that_torch_does_not_have_is_refused():
    with pytest.raises(ValueError, match="torch has no function named 'rellu'"):
        functions_named("rellu")


def test_what_is_not_given_is_what_torch_takes_it_for():
    compared = []
    for function, propagate in registry._RULES.items():
        try:
            ours, torchs = (inspect.signature(each).parameters for each in (propagate, function))
        except ValueError:  # of most functions in C nothing is said
            continue
        for name in ours.keys() & torchs.keys():
            own, given = ours[name].default, torchs[name].default
            defaults = own, 2 if given == "fro" else given
            if inspect.Parameter.empty not in defaults:
                compared.append(f"{function.__name__} {name}")
                assert defaults[0] == defaults[1], compared[-1]
    assert {"dropout p", "dropout training", "glu dim", "normalize dim", "batch_norm momentum"} <= set(compared)


def test_a_rule_of_ones_own_takes_effect():
    def triple(x):
        return torch.overrides.handle_torch_function(triple, (x,), x) if not isinstance(x, Tensor) else 3 * x

    x = Moments(torch.ones(2), torch.ones(2))
    assert not has_rule(triple)

    @rule(triple)
    def tripled(x):
        return Moments(3 * x.expectation, 9 * x.variance, x.approximation)

    assert has_rule(triple)
    assert torch.equal(triple(x).variance, torch.full((2,), 9.0))
    assert torch.equal(apply_rule(triple, (x,)).expectation, torch.full((2,), 3.0))
