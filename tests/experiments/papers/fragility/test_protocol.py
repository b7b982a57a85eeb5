"""The pipeline under any choices: all right, it is the comparison's; each published choice does what its name says."""

from dataclasses import replace

import pytest
import torch

from bayes_influence.experiments.comparison.cell import measure
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED
from bayes_influence.experiments.papers.fragility.protocol import Pipeline

SMALL = Study(repeats=2, removals=8, epochs=400, refit_epochs=60, test_example=83)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(SMALL, most_points=8)


@pytest.fixture(scope="module")
def by_scheme(pipeline):
    def networks(choices):
        return {one.scheme: one for one in pipeline.networks(choices)}

    return networks


@pytest.mark.slow
def test_with_everything_right_it_is_the_comparison(pipeline):
    own = pipeline.measure(replace(CORRECTED, points=8)).differences
    schemes = ("weight-decay", "bnn")
    for scheme in schemes:
        theirs = measure(replace(SMALL, schemes=(scheme,))).tables["differences"]
        theirs = theirs[theirs["estimator"] != "posterior-mean"]
        mine = own[own["scheme"] == scheme]
        assert mine["example"].tolist() == theirs["example"].tolist()
        assert mine["estimated"].to_numpy() == pytest.approx(theirs["estimated"].to_numpy(), rel=1e-6, abs=1e-10)
        assert mine["true"].to_numpy() == pytest.approx(theirs["true"].to_numpy(), rel=1e-6, abs=1e-10)


@pytest.mark.slow
def test_as_published_everything_is_single_precision_and_every_scheme_is_measured(pipeline, by_scheme):
    measured = pipeline.measure(replace(AS_PUBLISHED, points=5))
    assert len(measured.results) == 5 * 2
    assert len(measured.differences) == 5 * 2 * 5
    assert (measured.results["absolute_spearman"] == measured.results["spearman"].abs()).all()
    assert {one.members.objective.dtype for one in by_scheme(AS_PUBLISHED).values()} == {torch.float32}


def test_effects_are_differences_to_the_control_or_to_the_fit(pipeline, by_scheme):
    networks = by_scheme(AS_PUBLISHED)["none"]
    truths = pipeline.truths(networks, AS_PUBLISHED)
    to_control = truths.changes(replace(CORRECTED, points=8))
    to_fit = truths.changes(replace(AS_PUBLISHED, points=8))
    drift = truths.losses[:, 0] - truths.before
    assert torch.allclose(to_fit - to_control, drift.unsqueeze(1).expand_as(to_fit), atol=1e-6)
    assert torch.equal(truths.relative_drift, drift.abs() / to_control.abs().quantile(0.5, dim=1))


def test_published_refits_move_all_layers_and_the_mean_over_the_rest(pipeline, by_scheme):
    networks = by_scheme(AS_PUBLISHED)["weight-decay"]
    all_layers = pipeline.truths(networks, AS_PUBLISHED).losses
    fixed = pipeline.truths(networks, AS_PUBLISHED.correcting("fixed_mean")).losses
    assert torch.allclose(fixed[:, 0], all_layers[:, 0], atol=1e-5)
    assert not torch.allclose(fixed[:, 1:], all_layers[:, 1:], atol=1e-5)


def test_averages_are_refitted_from_the_last_iterate_as_published(by_scheme):
    averaged, plain = (by_scheme(AS_PUBLISHED)[name] for name in ("swa", "none"))
    name = plain.members.objective.names[0]
    assert not torch.equal(averaged.members.params[name], averaged.start.params[name])
    assert torch.equal(plain.members.params[name], plain.start.params[name])


def test_what_two_choices_share_is_computed_once(pipeline):
    choices = AS_PUBLISHED.correcting("points")
    networks = pipeline.networks(AS_PUBLISHED)
    assert pipeline.networks(choices.correcting("control", "biases", "damped")) is networks
    assert pipeline.truths(networks[0], choices) is pipeline.truths(networks[0], AS_PUBLISHED)


def test_a_published_bayesian_network_is_tested_by_another_loss_than_it_is_trained_by(by_scheme):
    published, own = (by_scheme(choices)["bnn"] for choices in (AS_PUBLISHED, CORRECTED))
    batch = SMALL.split().test.to(dtype=torch.float32).batch()
    one = published.members.at(0)
    assert not torch.allclose(published.tested(0).losses(one.params, batch), one.losses(one.params, batch))
    assert published.added == 0.001
    assert own.likelihood is own.estimated is None
    assert own.added == 0


def test_the_activation_of_the_bayesian_network_is_a_choice_of_its_own(by_scheme):
    published = by_scheme(AS_PUBLISHED)["bnn"].members.objective.network
    same = by_scheme(AS_PUBLISHED.correcting("one_activation"))["bnn"].members.objective.network
    assert type(published.activation).__name__ == "Tanh"
    assert type(same.activation).__name__ == "SELU"
