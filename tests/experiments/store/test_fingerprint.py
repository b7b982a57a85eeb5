from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.fingerprint import UnidentifiableError, fingerprint
from bayes_influence.experiments.store.fingerprint import described, fingerprint_of_builder, identity_of_members
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.fits import Fits


@dataclass(frozen=True)
class One:
    size: float


@dataclass(frozen=True)
class Other:
    size: float
    inner: object = None


@pytest.fixture
def fits():
    torch.manual_seed(0)
    objective = Objective(nn.Linear(2, 2), CrossEntropy())
    params = {name: torch.stack([value, 2 * value]) for name, value in objective.params.items()}
    norms = torch.zeros(2)
    return Fits(
        objective=objective,
        params=params,
        labels=("a", "b"),
        scheme=Deterministic("none"),
        gradient_norms=norms,
        polished=norms > 0,
        seconds=1.0,
    )


def test_members_are_objective_labels_seeds_and_parameters(fits):
    def mark(fits):
        return fingerprint(fits=identity_of_members(fits))

    others = [
        replace(fits, labels=("a", "c")),
        replace(fits, objective=replace(fits.objective, regulariser_weight=2.0)),
        replace(fits, seeds=(0, 2)),
        replace(fits, params={name: -value for name, value in fits.params.items()}),
    ]
    assert len({mark(fits), *map(mark, others)}) == 5
    assert mark(replace(fits, seconds=9.0, gradient_norms=torch.ones(2))) == mark(fits)


def test_settings_are_described_as_json_can_hold_them():
    assert [described(value) for value in (None, True, 3, 0.5, "word")] == [None, True, 3, 0.5, "word"]
    assert described(One(0.1)) == {"kind": "One", "size": 0.1}
    assert described(Other(0.1, One(2.0)))["inner"] == {"kind": "One", "size": 2.0}
    assert described(torch.ones(2)) == fingerprint(value=torch.ones(2))
    data = Dataset(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    assert described(data) == fingerprint(value=data)
    assert described(One) == fingerprint(value=One)
    with pytest.raises(UnidentifiableError, match="value is a torch"):
        described(torch.Generator())


def test_a_builder_is_what_it_builds_and_the_caller_s_generator_stays():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert fingerprint_of_builder(lambda: nn.Linear(2, 2)) == fingerprint_of_builder(lambda: nn.Linear(*[2, 2]))
    assert torch.equal(torch.rand(1), expected)

    def otherwise():
        layer = nn.Linear(2, 2)
        nn.init.zeros_(layer.weight)
        return layer

    assert fingerprint_of_builder(otherwise) != fingerprint_of_builder(lambda: nn.Linear(2, 2))
