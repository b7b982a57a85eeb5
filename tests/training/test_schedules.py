from math import cos, pi

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from bayes_influence.training.schedules import SWA, Plateau, PlateauState, Schedule

STALLING = [1.0, 0.9, 0.9, 0.8999, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.499, 0.5, 0.5, 0.5, 0.5, 0.5]
FALLING = [0.9**step for step in range(len(STALLING))]
NEGATIVE = [-1.0 - 0.5 * (step > 3) for step in range(len(STALLING))]


@pytest.mark.parametrize(
    "rule",
    [
        Plateau(factor=0.5, patience=2),
        Plateau(factor=0.1, patience=0, threshold=0.0),
        Plateau(factor=0.1, patience=3, threshold=1e-2),
        Plateau(factor=0.1, patience=1, smallest_change=2e-4),
    ],
    ids=["halved", "impatient", "demanding", "stopped"],
)
def test_every_member_is_lowered_as_torch_lowers_it_alone(rule):
    state, factors = PlateauState(rule, 2, torch.zeros(2, dtype=torch.float64)), torch.ones(2, dtype=torch.float64)
    theirs = []
    for _ in range(2):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
        scheduler = ReduceLROnPlateau(
            optimiser, factor=rule.factor, patience=rule.patience, threshold=rule.threshold, eps=rule.smallest_change
        )
        theirs.append((optimiser, scheduler))
    seen = set()
    for values in zip(STALLING, FALLING, strict=True):
        state.step(torch.tensor(values, dtype=torch.float64), factors, 0.01)
        for index, (optimiser, scheduler) in enumerate(theirs):
            scheduler.step(values[index])
            rate = optimiser.param_groups[0]["lr"]
            assert 0.01 * float(factors[index]) == pytest.approx(rate, rel=1e-12)
            seen.add((index, round(rate, 12)))
    assert len([rate for index, rate in seen if index == 0]) > 1, "the rule never took effect, so nothing was tested"


def test_negative_objectives_are_better_when_they_are_lower():
    """torch's relative rule asks for best (1 - threshold), which a negative best makes easier, not harder, to beat."""
    rule = Plateau(factor=0.5, patience=2)
    state, factors = PlateauState(rule, 1, torch.zeros(1)), torch.ones(1)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = ReduceLROnPlateau(optimiser, factor=0.5, patience=2)
    for value in NEGATIVE:
        state.step(torch.tensor([value]), factors, 1.0)
        scheduler.step(value)
        assert float(factors) == optimiser.param_groups[0]["lr"]


def test_averaging_begins_at_its_fraction_and_anneals_along_a_cosine():
    averaging = SWA(start=0.5, learning_rate=0.2, anneal=0.4)
    assert averaging.first_step(11) == 5
    initial = torch.tensor([1.0, 0.6], dtype=torch.float64)
    for done, share in [(0, 0.0), (1, 0.25), (2, 0.5), (4, 1.0), (9, 1.0)]:
        expected = 0.2 + (initial - 0.2) * (1 + cos(pi * share)) / 2
        torch.testing.assert_close(averaging.rate_after(done, 10, initial), expected)


def test_without_annealing_the_rate_is_swas_at_once():
    torch.testing.assert_close(SWA(learning_rate=0.2, anneal=0.0).rate_after(0, 10, torch.ones(1)), torch.tensor([0.2]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(0), "epochs must be at least 1, got 0"),
        (lambda: Schedule(1, 0.0), r"learning rate must be positive, got 0\.0"),
        (lambda: Schedule(1, betas=(1.0, 0.5)), "betas must lie in"),
        (lambda: Plateau(factor=1.0), r"a plateau needs a factor in \(0, 1\).*, got Plateau\(factor=1\.0"),
        (lambda: Plateau(patience=-1), "patience=-1"),
        (lambda: Plateau(threshold=1.0), r"threshold=1\.0"),
        (lambda: SWA(start=1.0), r"got start=1\.0"),
        (lambda: SWA(anneal=-0.1), r"anneal=-0\.1"),
        (lambda: SWA(learning_rate=0.0), r"learning_rate=0\.0"),
    ],
)
def test_wrong_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_schedule_has_unless_said_otherwise():
    assert Schedule() == Schedule(4000, 1e-3, Plateau(), (0.9, 0.999), 1e-8)
    assert SWA() == SWA(0.75, 1e-3, 0.1)
