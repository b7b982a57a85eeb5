import html

import pandas as pd
import pytest

from bayes_influence.evaluation.verdict import Grade
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.result import _kinks, named_runs, summarise_audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.schedules import Schedule


def _changed(cells, name, **columns):
    return {
        key: CellResult(dict(cell.tables) | {name: cell.tables[name].assign(**columns)}) for key, cell in cells.items()
    }


def test_constant_scores_are_said_to_be_constant(measured):
    jobs, cells = measured
    found = summarise_audit(_changed(cells, "effects", estimated=0.0), jobs)
    assert found.verdict.grade is Grade.UNDECIDED
    assert "all estimated differences are equal" in found.verdict.sentence
    assert found.notes == ("warm: all estimated differences are equal (4 of 4 pairs of network and test example)",)


def test_a_drifting_truth_is_not_judged_by(measured):
    jobs, cells = measured
    found = summarise_audit(_changed(cells, "stages", control_drift=2.5, drift_exceeds_effects=True), jobs)
    assert found.verdict.grade is Grade.UNDECIDED
    assert "already changes the loss by 2.5 times what a typical removal does" in found.verdict.sentence
    assert "in 2 of 2 networks (median 2.5 times as far)" in found.notes[0]


def test_a_control_that_drifts_more_than_the_effects_is_flagged(found):
    assert found.stages.query("stage == 'warm'")["drift_exceeds_effects"].any()
    (note,) = [note for note in found.notes if note.startswith("warm")]
    assert "retraining with nothing removed moves a test loss as far as a typical removal does" in note
    assert not found.stages.query("stage == 'pbrf'")["drift_exceeds_effects"].any()


def test_refits_that_do_not_converge_are_noted(data):
    objective = Objective(MLP(3, 3, depth=0, seed=0).double(), CrossEntropy(), WeightDecay(0.05), parameters="all")
    settings = AuditSettings(removals=3, damping=0.05, refit_schedule=Schedule(2), tolerance=1e-300)
    notes = audit(objective, *data, settings, progress=False).notes
    assert any("proximal: 4 of 4 refits did not reach their gradient norm" in note for note in notes)


def test_an_audit_is_shown_in_a_line_and_in_a_notebook(found):
    assert repr(found).startswith(f"Audit({found.verdict.grade}, against stage 'cold'; networks x test x removed")
    assert "2 x 2 x 5, damping 0.05" in repr(found)
    page = found._repr_html_()
    assert html.escape(found.verdict.sentence) in page
    assert page.count("<tr") == 1 + len(found.agreement)
    assert all(html.escape(note) in page for note in found.notes)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (MLP(3, 3, activation="tanh"), ""),
        (MLP(3, 3, activation="relu"), "the slope of ReLU jumps, and the gradient does"),
        (to_bayesian(MLP(3, 3, activation="selu")), "the slope of SELU jumps, and J itself jumps there"),
    ],
)
def test_kinks_are_named_where_there_are_any(network, said):
    told = _kinks(network)
    assert told.startswith(said)
    assert bool(told) == bool(said)


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        ([(0, 3), (0, 7)], "2 test examples"),
        ([(0, 3)], "1 test example"),
        ([(0, 3), (1, 3), (2, 3)], "3 networks"),
        ([(0, 3), (0, 7), (1, 3), (1, 7)], "4 pairs of network and test example"),
    ],
)
def test_what_agreement_is_measured_in_is_named(pairs, named):
    assert named_runs(pd.DataFrame([*pairs, *pairs], columns=["seed", "test"])) == named
