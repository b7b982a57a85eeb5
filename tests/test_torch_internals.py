"""Which private names of torch the installed version has, and that they do what the package needs of them."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functionalize, jvp, vmap

from bayes_influence import torch_internals
from bayes_influence.torch_internals import AnyBatchNorm, TransformType, get_interpreter_stack, make_fx

TAKEN = [
    (node.module, alias.name, alias.asname or alias.name)
    for node in ast.parse(Path(torch_internals.__file__).read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]


@pytest.mark.parametrize(("module", "name", "ours"), TAKEN, ids=lambda part: part)
def test_this_torch_has(module, name, ours):
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"torch {torch.__version__} has no {module}.{name}: {error}")
    assert getattr(torch_internals, ours) is found
    assert ours in torch_internals.__all__


def test_the_stack_of_transformations_is_read_from_outside_in():
    seen = []

    def look(x):
        seen.append([level.key() for level in get_interpreter_stack() or []])
        return x * 2

    x = torch.ones(2)
    look(x)
    vmap(look)(x)
    jvp(lambda x: jvp(look, (x,), (x,))[1], (x,), (x,))
    functionalize(look)(x)
    kinds = TransformType
    assert seen == [[], [kinds.Vmap], [kinds.Jvp, kinds.Jvp], [kinds.Functionalize]]


def test_a_trace_may_be_taken_without_memory():
    assert "_allow_non_fake_inputs" in inspect.signature(make_fx).parameters
    traced = make_fx(lambda x: x.sin() * 2, tracing_mode="fake", _allow_non_fake_inputs=True)(torch.ones(3))
    torch.testing.assert_close(traced(torch.arange(3.0)), torch.arange(3.0).sin() * 2)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2)])
def test_every_batch_norm_is_one(layer):
    assert isinstance(layer, AnyBatchNorm)
    assert not isinstance(nn.LayerNorm(2), AnyBatchNorm)
