import pytest
import torch

from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Dropout
from tests.fitted import DECAY, tanh_network

SCHEDULE = Schedule(20, 0.02)
SCHEME = Dropout("dropout", weight_decay=DECAY, probability=0.3)


def _fits(train, selection):
    (fits,) = fit_schemes([SCHEME], tanh_network, train, [0, 1], SCHEDULE, parameters=selection, tolerance=None)
    return fits


def test_the_control_repeats_the_training_with_its_masks(train, removed):
    fits = _fits(train, "all")
    refits = FromScratch(SCHEME, tanh_network, SCHEDULE).refit(fits, train, removed)
    for name, value in fits.params.items():
        torch.testing.assert_close(refits.params[name][:, 0], value, rtol=0, atol=1e-10)
    assert not refits.converged.any()  # a fixed schedule claims none


def test_a_removal_differs_by_the_removal_and_not_by_the_masks(train, removed):
    fits = _fits(train, "all")
    refits = FromScratch(SCHEME, tanh_network, SCHEDULE).refit(fits, train, removed)
    (other,) = fit_schemes([SCHEME], tanh_network, train, [7], SCHEDULE, parameters="all", tolerance=None)
    of_removal = torch.stack([(value[0, 1] - value[0, 0]).norm() for value in refits.params.values()]).norm()
    of_seed = torch.stack([(other.params[name][0] - value[0]).norm() for name, value in fits.params.items()]).norm()
    assert 0 < of_removal < 0.2 * of_seed


def test_what_cannot_be_repeated_is_refused(train, test, removed):
    fits = _fits(train, "last-layer")
    with pytest.raises(ValueError, match="a training of some parameters alone does not repeat"):
        FromScratch(SCHEME, tanh_network, SCHEDULE).refit(fits, train, removed)
    with pytest.raises(ValueError, match="the scheme dropout cannot be watched from scratch"):
        FromScratch(SCHEME, tanh_network, SCHEDULE, watch=test).refit(_fits(train, "all"), train, removed)
