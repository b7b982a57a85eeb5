import re

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.understanding import smooth_hinge
from bayes_influence.experiments.papers.understanding.smooth_hinge import (
    STUDIES,
    SmoothHingeStudy,
    hinge_changes,
    hinge_machine,
    smooth_machines,
)

SMALL = SmoothHingeStudy(images_of_all=150, side=4, removals=12, decay=0.02)


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(26) % 2
    inputs = 0.7 * (2.0 * targets[:, None] - 1) + torch.randn(26, 3, generator=generator, dtype=torch.float64)
    return Dataset(inputs, targets, torch.arange(100, 126), name="points")


def dual_solution(inputs, targets, decay, n):
    """w = (1/(lambda n)) sum_i a_i s_i x_i of the a in [0, 1] that minimise the dual, by scipy's SLSQP."""
    rows = (2.0 * targets - 1)[:, None] * inputs
    gram = rows @ rows.T / (decay * n)
    found = scipy.optimize.minimize(
        lambda a: a @ gram @ a / 2 - a.sum(),
        np.full(len(rows), 0.5),
        jac=lambda a: gram @ a - 1,
        bounds=[(0, 1)] * len(rows),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return rows.T @ found.x / (decay * n)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"removals": 2}, "removals must be at least 3, got 2"),
        ({"decay": 0.0}, "decay must be positive, or the machine is not unique, got 0.0"),
        ({"temperatures": (0.1, 0.01)}, "temperatures must rise from 0 or more, one of them positive, got [0.1, 0.01]"),
        ({"temperatures": (0.0,)}, "temperatures must rise from 0 or more, one of them positive, got [0.0]"),
        ({"temperatures": (-1.0, 0.1)}, "temperatures must rise from 0 or more, one of them positive, got [-1.0, 0.1]"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SmoothHingeStudy(**settings)


def test_the_machine_is_the_solution_of_its_dual_also_without_an_example_with_its_share_kept(points):
    inputs, targets = points.inputs.numpy(), points.targets.numpy()
    for rows, n in ((slice(None), 26), (slice(1, None), 26), (slice(1, None), 25)):
        left = points.select(range(26)[rows])
        found = hinge_machine(left, 0.1, n if n != len(left) else None)
        expected = dual_solution(inputs[rows], targets[rows], 0.1, n)
        np.testing.assert_allclose(found.params["weight"][0], expected, atol=1e-5)


def test_the_true_change_is_that_of_the_dual_solutions(points):
    """Of the two training points that are hardest to tell, for the third as a test point."""
    machine = hinge_machine(points, 0.1)
    hardest = machine.losses(machine.params, points.batch()).argsort(descending=True)[:3]
    train, test = points.without(points.ids[hardest[0]]), points.select(hardest[:1])
    ids = points.ids[hardest[1:]]
    inputs, targets = train.inputs.numpy(), train.targets.numpy()

    def loss(kept):
        weight = dual_solution(inputs[kept], targets[kept], 0.1, 25)
        sign = 2 * int(test.targets[0]) - 1
        return max(0.0, 1 - sign * float(test.inputs.numpy()[0] @ weight))

    everyone = np.arange(25)
    expected = [loss(everyone[everyone != row]) - loss(everyone) for row in train.positions(ids).tolist()]
    assert min(np.abs(expected)) > 1e-3
    np.testing.assert_allclose(hinge_changes(train, test, ids, 0.1), expected, atol=2e-5)


def test_smooth_machines_come_to_the_hinge_as_they_cool(points):
    machines = smooth_machines(points, (0.0, 0.0001, 0.01, 1.0), 0.1)
    assert sorted(machines) == [0.0001, 0.01, 1.0]
    weight = hinge_machine(points, 0.1).params["weight"]
    away = [float((machines[t].params["weight"] - weight).norm()) for t in sorted(machines)]
    assert away[0] < 2e-3
    assert away[0] < away[1] < away[2]


@pytest.fixture
def pair(monkeypatch, patterns):
    monkeypatch.setattr(smooth_hinge, "PAIR", (0, 2))
    return patterns


def test_more_removals_than_images_of_the_pair_are_refused(pair):
    cell = next(iter(SmoothHingeStudy(images_of_all=50, side=4, removals=45).cells().values()))
    with pytest.raises(ValueError, match=r"only \d+ images are of the pair \(0, 2\), got removals=45; take fewer"):
        smooth_hinge.measure_hinge(cell)


@pytest.mark.slow
def test_the_hinge_itself_overestimates_and_its_smooth_ones_predict(pair, tmp_path):
    done = STUDIES[0].run(SMALL, tmp_path, 1, False)
    effects = pd.read_csv(tmp_path / "effects.csv")
    assert len(effects) == 4 * 12
    assert effects.groupby("example")["hinge"].nunique().eq(1).all()
    table = done.table.set_index(["temperature", "retrained"])
    assert (0.0, "smooth hinge") not in table.index
    assert table.loc[(0.0, "hinge"), "slope"] < 0.5
    assert table.loc[(0.01, "smooth hinge"), "pearson"] > 0.95
    assert table.loc[(0.1, "smooth hinge"), "pearson"] > 0.95
    assert 0.5 < table.loc[(0.1, "smooth hinge"), "slope"] < 2
    assert done.findings[0].startswith("t = 0, hinge retrained: Pearson ")
    assert "images of 0 and 2, of which 12 were removed one at a time" in done.findings[-1]
    assert all(path.exists() for path in done.figures)
