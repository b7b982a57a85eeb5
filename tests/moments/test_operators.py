import operator

import pytest
import torch
from torch import Tensor

from bayes_influence.moments.operators import Operators


class Recorder(Operators):
    """Keeps the function and the arguments of the last operator."""

    last = None

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.last = (func, *args)
        return 1

    @property
    def calls(self):
        return type(self).last


BINARY = [
    (operator.add, torch.add),
    (operator.sub, torch.sub),
    (operator.mul, torch.mul),
    (operator.truediv, torch.div),
    (operator.pow, torch.pow),
    (operator.matmul, torch.matmul),
]
LEFT_ONLY = [
    (operator.floordiv, torch.floor_divide),
    (operator.mod, torch.remainder),
    (operator.eq, torch.eq),
    (operator.ne, torch.ne),
    (operator.lt, torch.lt),
    (operator.le, torch.le),
    (operator.gt, torch.gt),
    (operator.ge, torch.ge),
    (operator.iadd, Tensor.add_),
    (operator.isub, Tensor.sub_),
    (operator.imul, Tensor.mul_),
    (operator.itruediv, Tensor.div_),
    (operator.ipow, Tensor.pow_),
]
UNARY = [
    (operator.neg, torch.neg),
    (abs, torch.abs),
    (float, Tensor.__float__),
    (int, Tensor.__int__),
    (bool, Tensor.__bool__),
]


@pytest.mark.parametrize(("symbol", "function"), [*BINARY, *LEFT_ONLY])
def test_an_operator_calls_its_function_with_both_sides_in_their_order(symbol, function):
    x = Recorder()
    symbol(x, 7)
    assert x.calls[0] is function
    assert x.calls[1] is x
    assert x.calls[2] == 7


@pytest.mark.parametrize(("symbol", "function"), BINARY)
def test_a_reflected_operator_keeps_the_order(symbol, function):
    x = Recorder()
    symbol(7, x)
    assert x.calls[:2] == (function, 7)
    assert x.calls[2] is x


@pytest.mark.parametrize(("symbol", "function"), UNARY)
def test_unary_operators(symbol, function):
    x = Recorder()
    try:
        symbol(x)
    except TypeError:  # Python wants a float or a truth value of float() and bool(), and got 1
        assert symbol in (float, bool)
    assert x.calls[0] is function
    assert x.calls[1] is x


def test_assignment_and_arrays():
    x = Recorder()
    x[2]
    assert x.calls[0] is Tensor.__getitem__
    x[2] = 3
    assert x.calls[0] is Tensor.__setitem__
    assert x.calls[2:] == (2, 3)
    assert x.__array__(float) == 1
    assert x.calls[0] is Tensor.__array__


def test_objects_are_told_apart_by_identity_in_sets():
    x, y = Recorder(), Recorder()
    assert len({x, y}) == 2
