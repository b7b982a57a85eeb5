import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.statistics import spearman
from bayes_influence.experiments.papers.fragility.grid_cells import (
    SCALES,
    SIZES,
    AllLayersStudy,
    GridCell,
    built_from,
    ceiling_rows,
    measure_all_layers,
    order_effects,
)
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import loss_changes
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import find_schemes

SMALL = AllLayersStudy(
    scale="quick", only=("1x5",), repeats=1, epochs=120, refit_epochs=15, removals=4, test_example=83, orders=2
)


def cell_of(activation: str, scheme: str, **options: object) -> GridCell:
    study = replace(SMALL, activations=(activation,), schemes=(scheme,), **options)
    (cell,) = study.cells(study.networks()).values()
    return cell


@pytest.fixture(scope="module")
def measured():
    """A tanh network under weight decay, and how it was trained."""
    return measure_all_layers(cell_of("tanh", "weight-decay")).tables


@pytest.fixture(scope="module")
def fit():
    study = replace(SMALL.networks(), activation="tanh")
    train = study.split().train
    given = find_schemes(["weight-decay"]), study.make_network, train, [0], Schedule(120, 1e-2)
    (found,) = fit_schemes(*given, parameters="all", tolerance=None)
    return found


def test_the_grid_is_of_depth_at_width_5_and_of_width_at_depth_1():
    assert {depth for depth, width in SIZES if width == 5} == {1, 2, 4, 8}
    assert {width for depth, width in SIZES if depth == 1} == {5, 20, 50}
    assert SCALES["full"].sizes == AllLayersStudy().sizes == SIZES
    study = AllLayersStudy(test_example=83)
    assert len(study.cells(study.networks())) == 2 * len(SIZES) * 4


def test_networks_schemes_and_activations_can_be_added_to_a_folder_but_no_other_damping():
    one = AllLayersStudy(only=("1x5",), schemes=("none",), activations=("tanh",))
    assert one.configuration() == AllLayersStudy().configuration()
    assert one.configuration()["learning_rate"] == 0.01
    other = AllLayersStudy(damping=0.01).configuration()
    assert {name for name, value in one.configuration().items() if other[name] != value} == {"damping"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"orders": 1}, "orders must be at least 2, got 1"),
        ({"activations": ("tan",)}, "unknown activation 'tan'; known: "),
        ({"damping": 0.0}, "the damping must be positive, got 0.0"),
        ({"scale": "huge"}, "unknown scale 'huge'; known: quick, medium, full"),
        ({"only": ("1y5",)}, "a network is named by depth x width, 1x5 say, got '1y5'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AllLayersStudy(**options)


def test_the_estimate_is_held_against_every_truth_in_all_layers(measured, fit):
    """Each row against the estimate and the refits made here; a removal that lowers the loss keeps its sign."""
    results = measured["results"].set_index("truth")
    assert set(results.index) == {"pbrf", "minimum", "warm", "cold"}
    split = SMALL.networks().split()
    removed = largest_losses(fit.at(0), split.train, 4)
    estimated = Influence(fit.at(0), split.train, curvature="ggn", damping=1e-3).on_loss(split.test).removal[0]
    estimated = estimated[split.train.positions(removed)].numpy()
    truths = {"warm": Warm(Schedule(15, 1e-3, plateau=None)), "minimum": Minimum(1e-6)}
    for name, protocol in truths.items():
        true = loss_changes(protocol.refit(fit, split.train, removed), split.test)[0, :, 0].numpy()
        assert results.loc[name, "pearson"] == pytest.approx(np.corrcoef(estimated, true)[0, 1], abs=1e-6)
        assert results.loc[name, "spearman"] == pytest.approx(float(spearman(estimated, true)))
    assert results.loc["pbrf", "pearson"] > 0.9
    assert results.loc["cold", "control_drift"] == pytest.approx(0.0, abs=1e-9)
    assert set(measured["gaps"]["gap"]) == {"warm-start", "proximity", "non-convergence", "linearisation", "solver"}


def test_a_large_network_with_kinks_is_retrained_only():
    cell = cell_of("selu", "none", repeats=2, epochs=20)
    assert (cell.held, cell_of("tanh", "none").held) == (0, 0)
    tables = measure_all_layers(cell).tables
    assert tables["results"]["truth"].tolist() == ["warm", "cold"] * 2
    assert set(tables["gaps"]["gap"]) == {"warm-start", "warm to linear", "solver"}
    assert tables["ceilings"]["repeated"].tolist() == ["other seeds", "other orders"]
    assert tables["results"]["activation"].unique().tolist() == ["selu"]


def test_trainings_in_other_orders_begin_at_one_initialisation(fit):
    torch.manual_seed(5)
    make = replace(SMALL.networks(), activation="tanh").make_network
    one, other = built_from(3, make), built_from(3, make)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    split = SMALL.networks().split()
    removed = largest_losses(fit.at(0), split.train, 2)
    effects = order_effects(replace(cell_of("tanh", "weight-decay"), orders=3), fit, split, removed)
    again = order_effects(cell_of("tanh", "weight-decay"), fit, split, removed)
    assert effects.shape == (3, 2)
    assert np.allclose(effects[:2], again)
    assert np.ptp(effects, axis=0).min() > 1e-6


def test_a_ceiling_is_of_trainings_that_were_repeated(measured):
    effects = np.array([[1.0, 2.0, 3.0, 5.0], [1.0, 3.0, 2.0, 6.0]])
    (row,) = ceiling_rows("other seeds", effects)
    assert row == {
        "repeated": "other seeds",
        "trainings": 2,
        "spearman": retraining_ceiling(effects, spearman).single,
        "pearson": retraining_ceiling(effects).single,
    }
    assert row["spearman"] == pytest.approx(0.8**0.5)
    assert ceiling_rows("other seeds", effects[:1]) == []
    assert measured["ceilings"]["repeated"].tolist() == ["other orders"]
