"""Equal things have equal fingerprints, in another process too; things that differ anywhere do not."""

import copy
import functools
import importlib.util
import io
import os
import subprocess
import sys
import textwrap
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.fingerprint import Structure, UnidentifiableError, fingerprint

DATA = Dataset(torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 2, 0]), torch.arange(4))


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Penalty:
    weight: float
    power: int = 2

    def __call__(self, params):
        return self.weight * params["w"].pow(self.power).sum()


@dataclass(frozen=True)
class OtherPenalty:
    weight: float
    power: int = 2


class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("a",)


class HalfSlotted(Slotted):
    def __init__(self, a):
        self.a = a


class Scaled(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.scale = scale

    def forward(self, x):
        return self.scale * self.linear(x)


def network(seed=0, **settings):
    torch.manual_seed(seed)
    return Scaled(**settings)


def with_hook(hook):
    made = network()
    made.linear.register_forward_hook(hook)
    return made


def with_forward(forward):
    made = network()
    made.forward = forward
    return made


def norm(momentum=0.1, mean=0.0):
    made = nn.BatchNorm1d(2, momentum=momentum)
    made.running_mean += mean
    return made


def closing_over(value):
    def function(x):
        return x * value

    return function


def compiled(source, name="f", **outside):
    """A function of the user's own that is defined by its text."""
    scope = {"__name__": "notebook", **outside}
    exec(textwrap.dedent(source), scope)
    return scope[name]


def losses(text):
    return compiled(f"def f(outputs, targets):\n    return {text}", F=F)


PAIRS = {
    "dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    "shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "bits": (torch.tensor([0.1]), torch.tensor([0.1]).nextafter(torch.tensor(1.0))),
    "negative zero": (torch.tensor(0.0), torch.tensor(-0.0)),
    "half precision": (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float16)),
    "array's dtype": (np.zeros(2), np.zeros(2, np.float32)),
    "array's shape": (np.zeros((1, 2)), np.zeros((2, 1))),
    "array": (np.zeros(2), np.ones(2)),
    "number's kind": (1, 1.0),
    "truth": (1, True),
    "float": (0.1, 0.1 + 1e-17 + 1e-16),
    "imaginary part": (1j, 2j),
    "real part": (1 + 1j, 2 + 1j),
    "nothing": (None, "None"),
    "bytes": (b"a", "a"),
    "text": ("ab", "ba"),
    "borders": (["ab", "c"], ["a", "bc"]),
    "nesting": ([[1], [2]], [[1, 2], []]),
    "sequence": ((1, 2), [1, 2]),
    "order": ([1, 2], [2, 1]),
    "value": ({"a": 1}, {"a": 2}),
    "key": ({"a": 1}, {"b": 1}),
    "key's kind": ({1: 1}, {"1": 1}),
    "set": ({1, 2}, {1, 3}),
    "size": (torch.Size([1]), (1,)),
    "device": (torch.device("cpu"), torch.device("meta")),
    "path": (Path("a"), Path("b")),
    "enum": (Colour.RED, Colour.BLUE),
    "targets": (DATA, replace(DATA, targets=DATA.targets.flip(0))),
    "inputs": (DATA, replace(DATA, inputs=DATA.inputs + 1e-6)),
    "ids": (DATA, replace(DATA, ids=DATA.ids + 1)),
    "sample weights": (DATA, replace(DATA, weights=torch.ones(4))),
    "sample weight": (replace(DATA, weights=torch.ones(4)), replace(DATA, weights=torch.tensor([1.0, 1, 1, 2]))),
    "order of examples": (DATA, DATA.select([1, 0, 2, 3])),
    "field": (Penalty(0.1), Penalty(0.2)),
    "class": (Penalty(0.1), OtherPenalty(0.1)),
    "attribute": (Plain(a=1), Plain(a=2)),
    "attribute's name": (Plain(a=1), Plain(b=1)),
    "slot": (HalfSlotted(1), HalfSlotted(2)),
    "partial argument": (functools.partial(max, 1), functools.partial(max, 2)),
    "partial keyword": (functools.partial(max, key=len), functools.partial(max, key=abs)),
    "partial function": (functools.partial(max, 1), functools.partial(min, 1)),
    "built-in": (torch.sigmoid, torch.tanh),
    "ufunc": (np.exp, np.sin),
    "module": (np, torch),
    "method's owner": (Penalty(0.1).__call__, Penalty(0.2).__call__),
    "closure": (closing_over(1.0), closing_over(2.0)),
    "code": (losses("F.relu(outputs) - targets"), losses("F.relu(outputs) + targets")),
    "constant": (losses("2.0 * outputs"), losses("3.0 * outputs")),
    "name": (losses("F.relu(outputs)"), losses("F.tanh(outputs)")),
    "inner function": (losses("(lambda x: 2.0 * x)(outputs)"), losses("(lambda x: 3.0 * x)(outputs)")),
    "default": (compiled("def f(x, a=1.0): return x"), compiled("def f(x, a=2.0): return x")),
    "keyword's default": (compiled("def f(x, *, a=1.0): return x"), compiled("def f(x, *, a=2.0): return x")),
    "global": (compiled("def f(x): return D * x", D=0.1), compiled("def f(x): return D * x", D=0.2)),
    "inner global": (
        compiled("def f(x): return [D * y for y in x]", D=0.1),
        compiled("def f(x): return [D * y for y in x]", D=0.2),
    ),
    "global function": (
        compiled("def g(x): return 1\ndef f(x): return g(x)"),
        compiled("def g(x): return 2\ndef f(x): return g(x)"),
    ),
    "class's method": (compiled("class f:\n def g(s): return 1")(), compiled("class f:\n def g(s): return 2")()),
    "class's attribute": (compiled("class f:\n a = 1")(), compiled("class f:\n a = 2")()),
    "base class": (
        compiled("class g:\n a = 1\nclass f(g):\n pass")(),
        compiled("class g:\n a = 2\nclass f(g):\n pass")(),
    ),
    "property": (
        compiled("class f:\n @property\n def a(s): return 1")(),
        compiled("class f:\n @property\n def a(s): return 2")(),
    ),
    "static method": (
        compiled("class f:\n @staticmethod\n def a(): return 1")(),
        compiled("class f:\n @staticmethod\n def a(): return 2")(),
    ),
    "cached function": (
        functools.cache(compiled("def f(x): return 1")),
        functools.cache(compiled("def f(x): return 2")),
    ),
    "weights": (network(0), network(1)),
    "module's attribute": (network(scale=1.0), network(scale=2.0)),
    "mode": (network(), network().eval()),
    "layer": (nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())),
    "layer's option": (nn.Softplus(1.0), nn.Softplus(2.0)),
    "hook": (with_hook(losses("outputs")), with_hook(losses("targets"))),
    "no hook": (network(), with_hook(losses("outputs"))),
    "forward of an instance": (with_forward(losses("outputs")), with_forward(losses("targets"))),
    "buffer": (norm(), norm(mean=1.0)),
    "momentum": (norm(), norm(momentum=0.2)),
    "class weights": (nn.CrossEntropyLoss(torch.ones(3)), nn.CrossEntropyLoss(torch.tensor([1.0, 2, 3]))),
    "structure's buffer": (Structure(norm()), Structure(norm(mean=1.0))),
    "structure's attribute": (Structure(network(scale=1.0)), Structure(network(scale=2.0))),
    "structure's shape": (Structure(nn.Linear(2, 3)), Structure(nn.Linear(3, 2))),
    "structure's dtype": (Structure(nn.Linear(2, 3)), Structure(nn.Linear(2, 3).double())),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_differs_has_another_fingerprint_and_what_does_not_has_the_same(pair):
    first, second = PAIRS[pair]
    assert fingerprint(part=first) != fingerprint(part=second)
    for one in (first, second):
        assert fingerprint(part=one) == fingerprint(part=one)
        assert fingerprint(part=copy.deepcopy(one) if pair != "module" else one) == fingerprint(part=one)


def test_parts_have_names_and_no_order():
    assert fingerprint(a=1, b=2) == fingerprint(b=2, a=1) != fingerprint(a=2, b=1)
    assert fingerprint(a=1) != fingerprint(b=1) != fingerprint()
    assert fingerprint(p={"a": 1, "b": 2}) == fingerprint(p={"b": 2, "a": 1})
    assert fingerprint(p={3, 1, 2}) == fingerprint(p={1, 2, 3})


def test_how_a_tensor_lies_in_memory_does_not_count():
    values = torch.randn(3, 4, dtype=torch.complex64)
    assert fingerprint(x=values.conj()) == fingerprint(x=values.conj().resolve_conj().clone())
    assert fingerprint(x=values.T) == fingerprint(x=values.T.contiguous())
    assert fingerprint(x=nn.Parameter(values)) == fingerprint(x=values)
    assert fingerprint(x=torch.eye(3).to_sparse()) == fingerprint(x=torch.eye(3))
    assert fingerprint(x=torch.zeros(0)) != fingerprint(x=torch.zeros(0, 1))


def test_what_data_are_called_does_not_count():
    described = replace(DATA, name="iris", feature_names=("a", "b", "c"), class_names=("x", "y", "z"))
    assert fingerprint(x=described) == fingerprint(x=DATA)


def test_a_structure_leaves_out_the_parameters_numbers():
    assert fingerprint(x=Structure(network(0))) == fingerprint(x=Structure(network(1)))
    assert fingerprint(x=Structure(network(0))) != fingerprint(x=network(0))


def test_where_a_function_stands_does_not_count():
    plain, moved = losses("outputs"), compiled("\n\n\n\ndef f(outputs, targets):\n    return outputs")
    assert fingerprint(f=plain) == fingerprint(f=moved)


def test_what_contains_itself_comes_to_an_end():
    loop: list = [1]
    loop.append(loop)
    other: list = [1]
    other.append([1, other])
    assert fingerprint(x=loop) == fingerprint(x=loop) != fingerprint(x=other)
    recursive = compiled("def f(x): return f(x - 1)")
    assert fingerprint(f=recursive) == fingerprint(f=recursive)


def test_networks_of_many_kinds_have_one():
    for made in (nn.LSTM(2, 3), nn.TransformerEncoderLayer(4, 2, 8), nn.MultiheadAttention(4, 2), nn.GRU(2, 2)):
        assert fingerprint(x=made) == fingerprint(x=copy.deepcopy(made))
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert fingerprint(x=weighted) == fingerprint(x=weighted)
    assert fingerprint(x=OrderedDict(a=weighted)) != fingerprint(x={"a": weighted})


@pytest.mark.parametrize(
    ("thing", "where"),
    [
        (torch.Generator(), r"part is a torch\._C\.Generator, of which nobody can say whether it is the same"),
        (Plain(file=sys.stdout.buffer), r"part\.file\[1\] is a _io\."),
        (closing_over(torch.Generator()), r"part, its value is a torch"),
        (compiled("def f(x): return G", G=torch.Generator()), r"part, its G is a torch"),
        ([{"a": (b for b in ())}], r"part\[0\]\['a'\]\[1\] is a builtins\.generator"),
        (compiled("class f(B): pass", B=io.BytesIO)(), r"part is a notebook\.f, of which"),
        (np.array([None]), "part is an array of objects; make it one of numbers"),
    ],
)
def test_what_cannot_be_told_from_another_is_refused_with_its_place(thing, where):
    with pytest.raises(UnidentifiableError, match=where):
        fingerprint(part=thing)


ELSEWHERE = """
    import torch
    from functools import partial
    from bayes_influence.data.dataset import Dataset
    from bayes_influence.data.fingerprint import fingerprint
    from bayes_influence.objectives.likelihoods import CrossEntropy

    torch.manual_seed(0)
    data = Dataset(torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 2, 0]), torch.arange(4))
    loss = partial(torch.nn.functional.cross_entropy, reduction="none")
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
    names = {f"name {n}" for n in range(9)}
    print(fingerprint(data=data, loss=loss, likelihood=CrossEntropy(), net=net, own=lambda x: 2 * x, names=names))
"""


def test_another_process_finds_the_same():
    found = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(ELSEWHERE)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(found[0]) == 65
    assert found[0] == found[1]


def test_a_module_of_the_users_own_counts_by_its_text(tmp_path):
    def loaded(text):
        (tmp_path / "mine.py").write_text(text)
        spec = importlib.util.spec_from_file_location("mine", tmp_path / "mine.py")
        return importlib.util.module_from_spec(spec)

    first, again = (fingerprint(f=compiled("def f(x): return m.D * x", m=loaded("D = 1"))) for _ in range(2))
    assert first == again != fingerprint(f=compiled("def f(x): return m.D * x", m=loaded("D = 2")))
