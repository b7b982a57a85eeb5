from dataclasses import dataclass

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.curvature.operators.output_curvature import OutputLosses, output_hessians

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64)
BATCH = bi.Batch(LOGITS, torch.tensor([0, 1, 2, 0, 1]))


def objective(likelihood):
    return bi.Objective(nn.Linear(3, 3).double(), likelihood)


def test_curvatures_of_logits_are_those_of_softmax():
    p = LOGITS.softmax(1)
    expected = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    torch.testing.assert_close(output_hessians(objective(bi.CrossEntropy()), LOGITS, BATCH), expected)


def test_outputs_in_a_nesting_are_one_vector_and_back():
    losses = OutputLosses(objective(lambda o, y: o["a"].sum(1) + o["b"]), BATCH, {"a": LOGITS, "b": LOGITS[:, 0]})
    torch.testing.assert_close(losses.split(losses.values)["a"], LOGITS)
    torch.testing.assert_close(losses.slopes(), torch.ones(20).double())


@dataclass
class Record:
    logits: torch.Tensor


def test_outputs_that_are_no_tensors_are_refused_in_words():
    class Recording(nn.Linear):
        def forward(self, x):
            return Record(super().forward(x))

    data = bi.Dataset(LOGITS, BATCH.targets, torch.arange(5))
    with pytest.raises(TypeError, match=r"must be tensors, or tuples or dicts of them, got .*Record; return one of"):
        bi.Influence.of(
            Recording(3, 3).double(),
            lambda outputs, targets: nn.functional.cross_entropy(outputs.logits, targets),
            data,
            curvature="ggn",
            damping=1.0,
        )
