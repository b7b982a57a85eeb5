import subprocess
import sys

import pytest
import torch
from torch import nn

from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.moments.export import export_moments


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4))


@pytest.mark.parametrize(
    ("network", "shape"),
    [(lambda: MLP(5, 3, width=4, activation="tanh"), (5,)), (convolutional, (1, 8, 8))],
)
@pytest.mark.parametrize(("method", "size"), [("first-order", 7), ("first-order", 2), ("exact", 4)])
def test_the_program_computes_what_the_twin_computes(network, shape, method, size):
    twin = to_bayesian(network(), method=method).double()
    program = export_moments(twin, torch.randn(4, *shape, dtype=torch.float64))
    inputs = torch.randn(size, *shape, dtype=torch.float64)
    mean, variance = program.module()(inputs)
    with torch.no_grad():
        moments = twin(inputs)
    torch.testing.assert_close(mean, moments.expectation, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(variance, moments.variance, rtol=1e-12, atol=1e-12)
    assert twin.training


def test_a_saved_program_runs_without_the_library(tmp_path):
    twin = to_bayesian(MLP(5, 3, width=4))
    inputs = torch.randn(6, 5)
    torch.export.save(export_moments(twin, inputs), tmp_path / "twin.pt2")
    with torch.no_grad():
        torch.save((inputs, twin(inputs).expectation, twin(inputs).variance), tmp_path / "expected.pt")
    script = (
        "import sys, torch; inputs, mean, variance = torch.load('expected.pt')\n"
        "m, v = torch.export.load('twin.pt2').module()(inputs)\n"
        "torch.testing.assert_close(m, mean); torch.testing.assert_close(v, variance)\n"
        "assert not [name for name in sys.modules if name.startswith('bayes_influence')]"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_what_cannot_be_exported_is_refused():
    with pytest.raises(ValueError, match="Linear has no Bayesian layer; export it with"):
        export_moments(nn.Linear(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="needs an example batch of at least 2, got 1"):
        export_moments(to_bayesian(nn.Linear(2, 2)), torch.zeros(1, 2))
