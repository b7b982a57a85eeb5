import numpy as np
import pytest
import torch

from bayes_influence.experiments.papers.understanding.domain_tables import MEMBERS, TABLES, planted_table, survey_table


@pytest.mark.parametrize("name", TABLES)
def test_the_indicator_marks_the_sub_population_and_is_called_by_its_name(name):
    table = TABLES[name](0)
    column = table.data.inputs[:, table.column]
    assert set(column.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(table.members, (column == 1).nonzero()[:, 0])
    assert len(table.members) == {"planted": MEMBERS, "survey": 41}[name]
    assert table.data.feature_names[table.column] == {"planted": "member", "survey": "student"}[name]
    assert table.data.class_names == ("no", "yes")


def test_membership_has_no_part_in_the_planted_rule():
    """Over many seeds members are of class 1 as often as others, a quarter to a third of them."""
    shares = []
    for seed in range(30):
        table = planted_table(seed)
        rest = torch.ones(len(table.data), dtype=torch.bool)
        rest[table.members] = False
        shares.append([float(table.data.targets[part].double().mean()) for part in (table.members, rest)])
    members, others = np.mean(shares, axis=0)
    assert 0.22 < others < 0.33
    assert members == pytest.approx(others, abs=0.04)
    assert not torch.equal(planted_table(0).data.inputs, planted_table(1).data.inputs)


def test_the_survey_is_that_of_statsmodels():
    """Counts of its own description: 6 366 wives, 41 of them students, of whom 7 had an affair."""
    table = survey_table(0)
    assert len(table.data) == 6366
    assert int(table.data.targets.sum()) == 2053
    assert int(table.data.targets[table.members].sum()) == 7
    occupations = table.data.inputs[:, table.column :]
    assert occupations.shape[1] == 6
    assert (occupations.sum(dim=1) == 1).all()
    assert torch.equal(table.data.inputs, survey_table(5).data.inputs)
