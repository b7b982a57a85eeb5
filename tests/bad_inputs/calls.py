"""What the tables of bad calls are evaluated in, and what is asked of every refusal."""

import builtins
import linecache
import math
import re
import sys
import traceback
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.main import get_command

import bayes_influence as bi
from bayes_influence.cli import app
from bayes_influence.models import MLP

PACKAGE = Path(bi.__file__).parent
MODELS = Path(__file__).parents[2] / "models"
CALLED = re.compile(r"(?<![\w.'])((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)\(")
OWNERS = (bi, torch, nn, builtins, bi.Dataset, bi.Members, bi.Objective, bi.Minimum, torch.Tensor)


class Pairs(torch.utils.data.Dataset):
    """A data set of torch's."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.ones(4, dtype=torch.float64) * index, index % 2


def spoiled(values, with_what, where=3):
    """Values of which one is NaN, say."""
    values = values.clone() if values.is_floating_point() else values.float()
    values.view(-1)[where] = with_what
    return values


def make():
    return MLP(4, 3, width=3, activation="tanh")


@pytest.fixture(scope="module")
def names():
    """Everything that a row may name: a small problem, its networks, its estimate and its refits."""
    n, generator = 30, torch.Generator().manual_seed(0)
    x, y, ids = torch.randn(n, 4, generator=generator).double(), torch.arange(n) % 3, torch.arange(n)
    data = bi.Dataset(x, y, ids, name="table")
    split = bi.hold_out(data)
    (wd,) = bi.find_schemes(["weight-decay"])
    (fits,) = bi.fit_schemes([wd], make, split.train, seeds=[0, 1], schedule=bi.Schedule(100))
    objective = fits.at(0)
    estimate = bi.Influence(objective, split.train, damping=0.0)
    parts = {"x": x, "y": y, "ids": ids, "n": n, "data": data, "split": split, "train": split.train, "test": split.test}
    fitted = {"wd": wd, "fits": fits, "objective": objective, "inf_": estimate, "net": make().double()}
    refits = bi.Minimum().refit(fits, split.train, split.train.ids[:3])
    modules = {"bi": bi, "torch": torch, "nn": nn, "np": np, "MLP": MLP, "nan": math.nan, "inf": math.inf}
    helpers = {"make": make, "spoiled": spoiled, "pairs": Pairs(), "sched": bi.Schedule(epochs=3), "refits": refits}
    return modules | helpers | parts | fitted


def check_refused(call, error, message, names):
    """The call raises this error, with this message, from a `raise` of the library's own, and its advice exists."""
    with pytest.raises(error, match=message) as caught:
        eval(call, dict(names))
    where = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert PACKAGE in Path(where.filename).parents or MODELS in Path(where.filename).parents, where
    assert linecache.getline(where.filename, where.lineno).strip().startswith("raise"), where
    assert missing_names(str(caught.value)) == []


def missing_names(message):
    """What a message names that does not exist: functions that are called, options, and names in backticks."""
    known = {option for command in _commands(get_command(app)) for one in command.params for option in one.opts}
    wrong = [option for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", message) if option not in known]
    called = [name for name in CALLED.findall(message) if not _exists(name)]
    quoted = [name for name in re.findall(r"`([A-Za-z_][\w.]*)`", message) if not _exists(name)]
    return wrong + called + quoted


def _commands(command):
    yield command
    for name in getattr(command, "commands", {}):
        yield from _commands(command.commands[name])


def _exists(name):
    """Whether a dotted name is one of the library's, torch's or Python's, or an argument of an estimate."""
    head, _, last = name.rpartition(".")
    arguments = {
        one for method in vars(bi.Influence).values() if callable(method) for one in signature(method).parameters
    }
    if not head and last in arguments:
        return True
    own = [module for path, module in sys.modules.items() if path.startswith("bayes_influence.")]
    return any(hasattr(owner, last) for owner in (*OWNERS, *own)) or hasattr(getattr(bi, head, None), last)
