import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.experiments.papers.understanding import domain_mismatch
from bayes_influence.experiments.papers.understanding.domain_mismatch import (
    KEPT,
    STUDIES,
    DomainMismatch,
    mismatched,
    retrained_effects,
)
from bayes_influence.experiments.papers.understanding.domain_tables import DomainTable, planted_table
from bayes_influence.influence.culprit import culprit_feature
from bayes_influence.training.minimum import minimum_of


@pytest.fixture(scope="module")
def table():
    """The planted table with its rows in another order, of which ids are no positions."""
    whole = planted_table(0)
    order = torch.randperm(len(whole.data), generator=torch.Generator().manual_seed(0))
    return DomainTable(whole.data.select(order), whole.column)


@pytest.fixture(scope="module")
def changed(table):
    return mismatched(table, 1e-3, 0)


def test_without_decay_there_is_no_minimum():
    with pytest.raises(
        ValueError, match=re.escape("decay must be positive, or refits have no minimum to reach, got 0")
    ):
        DomainMismatch(decay=0)


def test_four_of_the_sub_population_are_left_and_one_of_it_is_misled(table, changed):
    objective, split = changed
    members = split.train.inputs[:, table.column] == 1
    assert split.train.targets[members].tolist().count(1) == 3
    assert int(members.sum()) == KEPT
    assert len(split.test) == 1
    assert split.test.inputs[0, table.column] == 1
    assert int(split.test.ids[0]) not in split.train.ids.tolist()
    assert int(objective.outputs(objective.params, split.test.inputs).argmax()) != int(split.test.targets[0])
    real = split.train.inputs[:, [column for column in range(9) if column != table.column]]
    np.testing.assert_allclose(real.mean(dim=0), 0, atol=1e-12)
    np.testing.assert_allclose(real.std(dim=0, correction=0), 1)


def test_effects_are_retrained_entry_by_entry(changed):
    objective, split = changed
    found = culprit_feature(objective, split.train, split.test, 2, damping=0.0)
    true = retrained_effects(objective, split, found)
    inputs = split.train.inputs.clone()
    row = int(split.train.positions(found.ids[[1]])[0])
    inputs[row, 3] = inputs[:, 3].median()
    again = minimum_of(objective, split.train.with_inputs(inputs))
    batch = split.test.batch()
    change = again.losses(again.params, batch) - objective.losses(objective.params, batch)
    assert float(true[1, 3]) == pytest.approx(float(change[0]), rel=1e-9)
    assert float(torch.corrcoef(torch.stack([true.flatten(), found.effects.flatten()]))[0, 1]) > 0.9


def test_a_sub_population_of_one_class_is_refused(table):
    targets = table.data.targets.clone()
    targets[table.members] = 0
    alike = DomainTable(replace(table.data, targets=targets), table.column)
    message = "planted: 1 and 3 rows of the sub-population are kept, there are [40, 0]"
    with pytest.raises(ValueError, match=re.escape(message)):
        mismatched(alike, 1e-3, 0)


def test_a_change_that_misleads_nothing_is_said(table):
    """With so much decay that every prediction is of the most frequent class."""
    with pytest.raises(ValueError, match="planted: no row of the sub-population is misled by the change; take less"):
        mismatched(table, 1e3, 0)


@pytest.mark.slow
def test_the_study_finds_the_rows_and_the_feature(table, tmp_path, monkeypatch):
    monkeypatch.setattr(domain_mismatch, "TABLES", {"planted": lambda seed: table})
    monkeypatch.setattr(DomainMismatch, "PARTS", ("planted",))
    done = STUDIES[0].run(DomainMismatch(repeats=1, decay=1e-3), tmp_path, 1, False)
    row = done.table.iloc[0]
    assert row["members_found"] == 1
    assert row["ratio"] > 5
    assert row["effect_first"] == row["true_first"] == 1
    assert row["predicted"] == pytest.approx(row["true"], rel=0.1)
    features, found = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("features", "found"))
    assert len(features) == KEPT * 9
    assert found["seed"].tolist() == [0]
    sizes = features["effect"].abs().groupby(features["feature"]).mean()
    assert sizes.idxmax() == "member"
    assert done.findings[0].startswith("planted, 1 seeds: of the 4 rows of largest influence 100% are of")
    assert all(path.exists() for path in done.figures)
