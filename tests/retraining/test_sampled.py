import pytest
import torch
from torch import nn

from bayes_influence.models.initialisation import initial_state
from bayes_influence.objectives.derivatives import gradient
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.refits import control_drift, losses_after
from bayes_influence.training.deterministic import Dropout
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule, full_batches
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import find_schemes
from tests.fitted import DECAY, tanh_network

RENEWED = "renormalised"
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


def test_a_training_in_minibatches_is_repeated_and_differs_by_the_removal(train, removed):
    (scheme,), schedule = find_schemes(["weight-decay"]), MinibatchSchedule(6, 7, 0.02)
    (fits,) = fit_schemes([scheme], tanh_network, train, [0, 1], schedule, parameters="all", tolerance=None)
    refits = FromScratch(scheme, tanh_network, schedule).refit(fits, train, removed)
    weights = torch.ones(1, len(train), dtype=torch.float64)
    weights[0, train.positions(removed[1, 1])] = 0.0
    start, _ = initial_state(lambda: scheme.prepare(tanh_network()), [1], torch.float64)
    alone = train_minibatches(fits.objective, start, train, schedule, [1], data_weights=weights)
    for name, value in fits.params.items():
        torch.testing.assert_close(refits.params[name][:, 0], value, rtol=0, atol=1e-10)
        torch.testing.assert_close(refits.params[name][1, 2], alone.params[name][0], rtol=0, atol=1e-10)
        assert not torch.allclose(refits.params[name][1, 2], value[1], atol=1e-6)


def test_losses_of_noisy_trainings_cannot_be_watched(train, test, removed):
    with pytest.raises(ValueError, match="of the scheme dropout draw random numbers, move buffers or take minibatches"):
        FromScratch(SCHEME, tanh_network, SCHEDULE, watch=test).refit(_fits(train, "all"), train, removed)


@pytest.mark.parametrize("name", ["dropout", "mean-field-vi", "ivon"])
def test_a_last_layer_alone_restarts_with_the_noise_of_the_training(train, removed, name):
    (fits,) = fit_schemes(find_schemes([name]), tanh_network, train, [0, 1], SCHEDULE, tolerance=None)
    refits = FromScratch(fits.scheme, tanh_network, SCHEDULE).refit(fits, train, removed)
    assert set(refits.params) == set(fits.objective.names)
    objective, index, refit = fits.at(1), 1, 2
    start, _ = initial_state(lambda: fits.scheme.prepare(tanh_network()), [1], objective.dtype)
    weights = torch.ones(1, len(train), dtype=objective.dtype)
    weights[0, train.positions(removed[1, 1])] = 0.0
    alone = train_minibatches(
        objective,
        {name: start[name] if name in objective.names else value[None] for name, value in objective.params.items()},
        train,
        fits.scheme.scheduled(full_batches(SCHEDULE, len(train))),
        [1],
        names=objective.names,
        data_weights=weights,
        step=fits.scheme.step(objective, len(train)),
    )
    for parameter, value in refits.params.items():
        torch.testing.assert_close(value[index, refit], alone.params[parameter][0])
        assert not torch.equal(value[index, refit], value[index, 0])
    body = refits.at(1, 2).params["0.weight"]
    assert torch.equal(body, fits.params["0.weight"][1])


def normalised():
    # Without a bias before the batch norm: its gradient would be rounding, which Adam makes steps of.
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize("name", ["none", "weight-decay", "swa"])
def test_a_refit_with_running_statistics_is_a_training_alone_without_the_example(train, test, removed, name):
    (fits,) = fit_schemes(find_schemes([name]), normalised, train, [4, 7], SCHEDULE, parameters="all", tolerance=None)
    refits = FromScratch(fits.scheme, normalised, SCHEDULE).refit(fits, train, Removals.one_at_a_time(removed, RENEWED))
    (alone,) = fit_schemes(
        find_schemes([name]), normalised, train.without(removed[1, 2]), [7], SCHEDULE, parameters="all", tolerance=None
    )
    control, refit = refits.at(1, 0), refits.at(1, 3)
    for part in ("params", "buffers"):
        for tensor, value in getattr(alone.at(0), part).items():
            torch.testing.assert_close(getattr(refit, part)[tensor], value)
        for tensor, value in getattr(fits.at(1), part).items():
            torch.testing.assert_close(getattr(control, part)[tensor], value)
    losses = losses_after(refits, test)
    for objective, found in ((alone.at(0), losses[1, 3]), (fits.at(1), losses[1, 0])):
        torch.testing.assert_close(found, objective.losses(objective.params, test.batch()))
    torch.testing.assert_close(control_drift(refits, test, warn=False).drift, torch.zeros(2, 6).double())
    rest = train.without(removed[1, 2])
    norm = gradient(refit, rest.batch()).norm()
    torch.testing.assert_close(refits.gradient_norms[1, 3], norm)


def test_one_over_n_stays_where_an_example_is_out_of_the_batches(train, removed):
    (fits,) = fit_schemes(
        find_schemes(["weight-decay"]), normalised, train, [4], SCHEDULE, parameters="all", tolerance=None
    )
    refits = FromScratch(fits.scheme, normalised, SCHEDULE).refit(fits, train, removed[:1])
    refit, rest = refits.at(0, 1), train.without(removed[0, 0])
    weights = torch.full((39,), 39 / 40, dtype=torch.float64)
    torch.testing.assert_close(refits.gradient_norms[0, 1], gradient(refit, rest.batch(), weights).norm())


def test_a_last_layer_alone_keeps_the_running_statistics_of_the_fit(train, test, removed):
    (fits,) = fit_schemes(find_schemes(["none"]), normalised, train, [4, 7], SCHEDULE, tolerance=None)
    refits = FromScratch(fits.scheme, normalised, SCHEDULE, watch=test).refit(fits, train, removed)
    assert not refits.buffers
    for name, value in fits.at(1).buffers.items():
        assert torch.equal(refits.at(1, 2).buffers[name], value)


class Attending(nn.Module):
    """Noise that no module of its own draws."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.attend = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs):
        words = self.embed(inputs.unsqueeze(-1))
        return self.head(self.attend(words, words, words)[0].mean(1))


class Centred(nn.Module):
    """A running mean that is assigned anew, and not written into."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(3))

    def forward(self, inputs):
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * inputs.mean(0).detach()
        return inputs - self.centre


NETWORKS = {
    "attention with dropout": Attending,
    "a centre": lambda: nn.Sequential(Centred(), nn.Linear(3, 3)),
    "spectral norm": lambda: nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 3)
    ),
    "batch norm and dropout": lambda: nn.Sequential(*normalised(), nn.Dropout(0.3), nn.Linear(3, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_members_are_trainings_alone_and_controls_repeat_them(train, name):
    make, (scheme,), short = NETWORKS[name], find_schemes(["weight-decay"]), Schedule(5, 0.02)
    both, (alone,) = (
        fit_schemes([scheme], make, train, seeds, short, parameters="all", tolerance=None) for seeds in ([4, 7], [7])
    )
    control = FromScratch(scheme, make, short).refit(both[0], train, torch.tensor([3])).at(1, 0)
    for part in ("params", "buffers"):
        for tensor, value in getattr(both[0].at(1), part).items():
            torch.testing.assert_close(value, getattr(alone.at(0), part)[tensor])
            torch.testing.assert_close(getattr(control, part)[tensor], value)
