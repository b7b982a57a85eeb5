import pytest
import torch

from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import as_removals
from bayes_influence.retraining import trained as trained_module
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import losses_after
from bayes_influence.retraining.turns import repeated_problem
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.ensemble import train_ensemble as ensemble
from bayes_influence.training.finiteness import NonFiniteTrainingError
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.newton import minimise_newton
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.schemes import SCHEMES
from bayes_influence.training.stacked import StackedProblem
from tests.fitted import Recurrent, softmax_regression, tanh_network

SHORT = Schedule(40, 0.02)


def test_long_training_ends_where_newton_does(regression, train, removed):
    trained = Warm(Schedule(1500, 0.01)).refit(regression, train, removed)
    exact = Minimum().refit(regression, train, removed)
    for name, value in exact.params.items():
        torch.testing.assert_close(trained.params[name], value, rtol=0, atol=1e-4)


def test_cold_warm_and_newton_are_one_minimum_of_a_convex_problem(regression, train, removed):
    exact = Minimum(1e-12).refit(regression, train, removed)
    reduction = reduce(regression, train)
    whole, weights = StackedProblem.of(reduction), as_removals(removed, 2).data_weights(train)
    cold = FromScratch(regression.scheme, softmax_regression, Schedule(1500, 0.02, plateau=None))
    for protocol in (cold, Warm(Schedule(300, 0.01))):
        trained = protocol.refit(regression, train, removed)
        for name, value in exact.params.items():
            torch.testing.assert_close(trained.params[name], value, rtol=0, atol=1e-3)
        # Adam ends near a minimum; Newton's method, started there, takes the rest of the way to the same one.
        problem = repeated_problem(reduction, whole, torch.arange(2), weights)
        ends = {name: value.flatten(0, 1) for name, value in trained.params.items()}
        problem.start = problem.layout.flatten(ends)
        polished = minimise_newton(problem, tolerance=1e-12)
        assert polished.converged.all()
        for name, value in exact.params.items():
            torch.testing.assert_close(polished.free[name].unflatten(0, (2, 4)), value, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["none", "weight-decay", "swa", "weight-decay+swa", "bnn"])
def test_the_control_from_scratch_repeats_the_training(train, removed, name):
    (fits,) = fit_schemes([SCHEMES[name]], tanh_network, train, [4, 7], SHORT, parameters="all", tolerance=None)
    refits = FromScratch(fits.scheme, tanh_network, SHORT).refit(fits, train, removed)
    for parameter, value in fits.params.items():
        torch.testing.assert_close(refits.params[parameter][:, 0], value, rtol=0, atol=1e-12)
        assert not torch.equal(refits.params[parameter][:, 1], value)


def test_a_refit_from_scratch_is_training_that_one_network_without_the_example(train, removed):
    (fits,) = fit_schemes([SCHEMES["none"]], tanh_network, train, [4, 7], SHORT, parameters="all", tolerance=None)
    refits = FromScratch(fits.scheme, tanh_network, SHORT).refit(fits, train, removed)
    rest = train.without(int(removed[1, 2]))
    (alone,) = fit_schemes([SCHEMES["none"]], tanh_network, rest, [7], SHORT, parameters="all", tolerance=None)
    # Adam divides the gradient's scale n / (n - 1) out, up to its epsilon.
    for name, value in alone.params.items():
        torch.testing.assert_close(refits.params[name][1, 3], value[0], rtol=0, atol=1e-3)


def test_averaging_is_repeated_only_where_it_is_asked_for(train, removed):
    scheme = Deterministic("swa", averaging=SWA(start=0.0, learning_rate=0.02, anneal=0.0), regulariser_weight=0.0)
    (fits,) = fit_schemes([scheme], tanh_network, train, [0, 1], SHORT, parameters="all", tolerance=None)
    averaged = Warm(SHORT, averaging=scheme.averaging).refit(fits, train, removed)
    last = Warm(SHORT).refit(fits, train, removed)
    moved = [(one.params["0.weight"][:, 0] - fits.params["0.weight"]).norm() for one in (averaged, last)]
    assert 0 < moved[0] < moved[1]


@pytest.mark.parametrize(
    ("selection", "at_once"), [("last-layer", 1), ("last-layer", 3), (["2.weight"], 3), ("all", 3)]
)
def test_refits_do_not_depend_on_how_many_train_together(train, test, removed, selection, at_once):
    (fits,) = fit_schemes([SCHEMES["none"]], tanh_network, train, [0, 1], SHORT, parameters=selection, tolerance=None)
    together = Warm(SHORT, watch=test).refit(fits, train, removed)
    apart = Warm(SHORT, watch=test, at_once=at_once).refit(fits, train, removed)
    for name, value in together.params.items():
        torch.testing.assert_close(apart.params[name], value, rtol=0, atol=1e-12)
    torch.testing.assert_close(apart.gradient_norms, together.gradient_norms)
    torch.testing.assert_close(apart.watched, together.watched)


@pytest.mark.parametrize(
    ("make", "selection"), [(tanh_network, "last-layer"), (tanh_network, "all"), (Recurrent, "all")]
)
def test_test_losses_are_recorded_before_every_step(train, test, removed, make, selection):
    (fits,) = fit_schemes([SCHEMES["none"]], make, train, [0, 1], SHORT, parameters=selection, tolerance=None)
    watched = Warm(Schedule(8), watch=test).refit(fits, train, removed).watched
    assert watched.shape == (2, 4, 8, 6)
    for steps in (0, 5):
        if steps:
            expected = losses_after(Warm(Schedule(steps)).refit(fits, train, removed), test)
        else:
            at_fit = [fits.at(seed).losses(fits.at(seed).params, test.batch()) for seed in range(2)]
            expected = torch.stack(at_fit).unsqueeze(1).expand(2, 4, 6)
        torch.testing.assert_close(watched[:, :, steps], expected)


def test_a_fixed_schedule_claims_no_convergence(unfinished, train, removed):
    refits = Warm(Schedule(2)).refit(unfinished, train, removed)
    assert refits.watched is None
    assert not refits.converged.any()
    assert (refits.gradient_norms > 1e-4).all()


def test_a_refit_that_diverges_is_named(unfinished, train, removed):
    with pytest.raises(NonFiniteTrainingError, match="none, seed 0, refit 0: the objective became"):
        Warm(Schedule(20, 1e300, plateau=None)).refit(unfinished, train, removed)


@pytest.mark.parametrize("at_once", [0, -1])
def test_an_ensemble_of_no_refits_is_refused(unfinished, train, removed, at_once):
    with pytest.raises(ValueError, match=f"at_once must be at least 1 refit, got {at_once}"):
        Warm(SHORT, at_once=at_once).refit(unfinished, train, removed)


def test_refits_of_one_network_after_the_other_are_those_of_all_together(train, test, removed, monkeypatch):
    """Last layers are trained network by network where there are many outputs, and share what enters them."""
    (fits,) = fit_schemes([SCHEMES["none"]], tanh_network, train, [4, 7], SHORT)
    asked = []
    monkeypatch.setattr(
        trained_module, "train_ensemble", lambda *said, **more: asked.append((said, more)) or ensemble(*said, **more)
    )
    together = Warm(SHORT, watch=test).refit(fits, train, removed)
    monkeypatch.setattr(trained_module, "LINEAR_NUMBERS", 0)
    apart = Warm(SHORT, watch=test).refit(fits, train, removed)
    companies = [(len(more["labels"]), more["own_data"], len(said[2].inputs)) for said, more in asked]
    assert companies == [(8, True, 2), (4, False, len(train)), (4, False, len(train))]
    for name, value in together.params.items():
        torch.testing.assert_close(apart.params[name], value, rtol=0, atol=1e-10)
    torch.testing.assert_close(apart.watched, together.watched, rtol=0, atol=1e-10)
    torch.testing.assert_close(apart.gradient_norms, together.gradient_norms, rtol=0, atol=1e-10)
