from dataclasses import replace

import pandas as pd
import pytest
import torch

from bayes_influence.evaluation.statistics import spearman
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.refit_length import (
    LengthStudy,
    length_findings,
    measure_length,
    removal_effects,
    reproduce_length,
    steps_compared,
)
from bayes_influence.experiments.papers.means import mean_table
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.refits import loss_changes
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import find_schemes

SMALL = Study(repeats=1, removals=6, epochs=200, refit_epochs=31, test_example=83, schemes=("weight-decay",))


def test_lengths_are_spaced_logarithmically_up_to_the_last():
    assert steps_compared(1001) == [1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316, 562, 1000]
    assert steps_compared(2) == [1]


def test_agreement_at_a_length_is_that_of_refits_which_end_there():
    results = measure_length(SMALL).tables["results"].set_index("step")
    split = SMALL.split()
    (fit,) = fit_schemes(find_schemes(["weight-decay"]), SMALL.make_network, split.train, [0], Schedule(200))
    removed = largest_losses(fit.at(0), split.train, 6)
    refits = Warm(Schedule(30, 1e-3, plateau=None)).refit(fit, split.train, removed)
    true = loss_changes(refits, split.test)[0, :, 0]
    estimated = removal_effects(fit.at(0), split)[split.train.positions(removed)]
    assert results.loc[30, "spearman"] == pytest.approx(float(spearman(estimated.numpy(), true.numpy())))
    assert results["parameters"].unique().tolist() == ["last-layer"]


def test_estimates_are_damped_where_the_curvature_is_indefinite():
    study = replace(SMALL, parameters="all", epochs=30)
    split = study.split()
    (fit,) = fit_schemes(
        find_schemes(["none"]), study.make_network, split.train, [0], Schedule(30), parameters="all", tolerance=None
    )
    assert torch.isfinite(removal_effects(fit.at(0), split)).all()


def test_sentences_have_the_best_length_and_the_last():
    rows = [
        {"step": step, "spearman": value + seed / 100, "slope": 1.0, "seed": seed}
        for step, value in ((1, 0.2), (10, 0.9), (100, 0.4))
        for seed in range(2)
    ]
    results = pd.DataFrame(rows).assign(parameters="all", activation="tanh", scheme="none", pearson=0.5)
    summary = mean_table(results, ["parameters", "activation", "scheme", "step"], ["spearman", "pearson", "slope"])
    (sentence,) = length_findings(summary)
    assert sentence.startswith("none, tanh, all layers: signed Spearman best after 10 refit steps, 0.905 (")
    assert "after 100 0.405 (" in sentence
    assert sentence.endswith("slope of true on estimated 1 (1 … 1) (2 seeds).")


@pytest.mark.slow
def test_the_study_writes_table_figure_and_sentences(tmp_path):
    study = LengthStudy(repeats=1, removals=4, epochs=30, refit_epochs=12, schemes=("weight-decay",), test_example=83)
    found = reproduce_length(study, tmp_path, 1, progress=False)
    assert len(found.findings) == 4
    assert set(pd.read_csv(tmp_path / "refit-length.csv")["step"]) == set(steps_compared(12))
    assert (tmp_path / "refit-length.png").exists()
    with pytest.raises(ValueError, match="epochs is 30 there and 40 here"):
        reproduce_length(replace(study, epochs=40), tmp_path, 1, progress=False)
