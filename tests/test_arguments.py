import math

import numpy as np
import pytest
import torch

from bayes_influence.arguments import (
    check_at_least,
    check_count,
    check_dtype,
    check_function,
    check_number,
    check_positive,
    check_real,
    check_whole,
    checked_device,
    checked_seed,
    checked_seeds,
    kind_of,
    shown,
)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "0", None])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match=r"a seed is a whole number in 0\.\.4294967295, got"):
        checked_seed(seed)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_seeds_at_the_ends(seed):
    assert checked_seed(seed) == seed


def test_kinds_are_named_with_their_package():
    assert kind_of(torch.zeros(1)) == "torch's Tensor"
    assert [kind_of(value) for value in (None, 1, "a")] == ["None", "int", "str"]
    assert kind_of(np.zeros(1)) == "numpy's ndarray"


def test_a_value_is_shown_on_one_short_line():
    assert shown("10") == "str '10'"
    assert shown(None) == "None"
    assert len(shown("x" * 1000)) < 50


@pytest.mark.parametrize("number", [3, np.int64(3), 0, -1])
def test_whole_numbers_of_any_kind_pass(number):
    check_whole(n=number)


@pytest.mark.parametrize("number", [1.0, True, "3", None, [3], torch.tensor(3)])
@pytest.mark.parametrize("check", [check_whole, check_count])
def test_what_is_no_whole_number(number, check):
    with pytest.raises(TypeError, match="n must be a whole number, got"):
        check(n=number)


def test_counts_begin_somewhere():
    check_count(n=1)
    check_count(0, n=0)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        check_count(n=0)


@pytest.mark.parametrize("number", [1, 1.5, np.float32(2), math.nan, math.inf])
def test_numbers_of_any_kind_pass(number):
    check_number(x=number)


@pytest.mark.parametrize("number", [True, "1", None, [1.0], 1j])
@pytest.mark.parametrize("check", [check_number, check_real, check_positive])
def test_what_is_no_number(number, check):
    with pytest.raises(TypeError, match="x must be a number, got"):
        check(x=number)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("check", [check_real, check_positive])
def test_what_is_not_finite(number, check):
    with pytest.raises(ValueError, match="x must be a finite number, got"):
        check(x=number)


def test_ranges():
    check_positive(x=1e-300)
    check_at_least(0, x=0.0)
    with pytest.raises(ValueError, match="x must be positive, got 0"):
        check_positive(x=0)
    with pytest.raises(ValueError, match="x must be at least 0, got -1"):
        check_at_least(0, x=-1)


def test_functions_and_objects_are_called_and_classes_are_not():
    check_function("the loss", abs, "pass one")
    with pytest.raises(TypeError, match="the loss must be an object, got the class int itself; pass one"):
        check_function("the loss", int, "pass one")
    with pytest.raises(TypeError, match="the loss must be a function, got int 3; pass one"):
        check_function("the loss", 3, "pass one")


@pytest.mark.parametrize("seeds", [[0, 1], (0, 1), range(2), np.arange(2), torch.arange(2)])
def test_seeds_in_any_list(seeds):
    assert checked_seeds(seeds) == (0, 1)


@pytest.mark.parametrize(
    ("seeds", "error", "message"),
    [
        ("01", TypeError, "seeds must be a list of whole numbers, got str '01'"),
        (0, TypeError, r"got int 0; give \[0\] for one network"),
        ([], ValueError, "one or more different whole numbers"),
        ([1, 1], ValueError, r"one or more different whole numbers, got \[1, 1\]"),
        (["0"], ValueError, "a seed is a whole number"),
        (torch.tensor([0.5]), ValueError, "a seed is a whole number"),
    ],
)
def test_what_are_no_seeds(seeds, error, message):
    with pytest.raises(error, match=message):
        checked_seeds(seeds)


def test_devices_that_can_be_used():
    assert checked_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device 'cpux'; take 'cpu'"):
        checked_device("cpux")
    with pytest.raises(ValueError, match=r"the device 'meta' cannot be used here \(.*\); take 'cpu'"):
        checked_device("meta")


@pytest.mark.parametrize("dtype", ["float32", float, None, np.float64, torch.int64, torch.bool, torch.complex64])
def test_what_is_no_real_dtype(dtype):
    check_dtype(torch.float32)
    with pytest.raises(TypeError, match=r"dtype must be a .*take torch\.float32 or torch\.float64"):
        check_dtype(dtype)
