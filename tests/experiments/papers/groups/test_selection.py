import pandas as pd
import pytest

from bayes_influence.experiments.papers.groups.data import gaussian_blobs
from bayes_influence.experiments.papers.groups.selection import METHODS, RANDOM, STUDIES, selection_figure, selections
from bayes_influence.experiments.papers.groups.settings import GroupScale, SelectedGroups
from bayes_influence.experiments.papers.regression import fitted_regression
from bayes_influence.influence.influence import Influence


def test_every_method_gives_a_group_of_the_size():
    split = gaussian_blobs(60, 20, seed=0)
    influence = Influence(fitted_regression(split.train, 0.05), split.train, damping=0.0)
    found = list(selections(influence, split.test.select([0]), 6, random=2, seed=0))
    assert [name for name, _, _ in found] == [RANDOM, RANDOM, *METHODS[1:]]
    assert all(len(set(ids.tolist())) == 6 for _, ids, _ in found)
    assert found[0][1].tolist() != found[1][1].tolist()


@pytest.mark.slow
def test_selected_groups_do_more_than_random_ones_and_the_table_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(SelectedGroups.SCALES, "quick", GroupScale(repeats=1, groups=3, train=120, fractions=(0.1,)))
    done = STUDIES[0].run(SelectedGroups(), tmp_path, 1, False)
    assert set(done.table["method"]) == set(METHODS)
    true = done.table.set_index("method")["true"]
    assert (true.drop(RANDOM) > true[RANDOM] + 0.1).all()
    assert len(pd.read_csv(tmp_path / "results.csv")) == 3 + len(METHODS) - 1
    assert done.findings[0].startswith("10% removed, true change of the test loss: random ")
    assert all(path.exists() for path in done.figures)


def test_a_method_is_drawn_alike_in_both_panels():
    columns = {"true": 1.0, "true_low": 0.5, "true_high": 2.0, "seconds": 0.1, "fraction": 0.1}
    figure = selection_figure(pd.DataFrame([{"method": method, **columns} for method in METHODS]))
    left, right = figure.axes
    drawn = {container.get_label(): container.lines[0] for container in left.containers}
    assert list(drawn) == list(METHODS)
    looks = [(line.get_color(), line.get_marker()) for name, line in drawn.items() if name != RANDOM]
    assert [(line.get_color(), line.get_marker()) for line in right.lines] == looks
    assert len(set(looks)) == len(METHODS) - 1
