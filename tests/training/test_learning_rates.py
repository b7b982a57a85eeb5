import torch

from bayes_influence.training.learning_rates import LearningRates
from bayes_influence.training.schedules import SWA, Plateau

FLAT = torch.zeros(2, 3, dtype=torch.float64)
EVERY = Plateau(factor=0.5, patience=0)


def both(values):
    return torch.full((2,), values, dtype=torch.float64)


def test_rates_follow_the_schedule_through_all_steps():
    rates = LearningRates(lambda step: 1 / (step + 1), 3, 2, FLAT)
    for step in range(6):
        assert torch.equal(rates.at(step), both(1 / (step + 1)))


def test_an_epoch_without_progress_lowers_what_is_scheduled():
    rates = LearningRates(lambda step: 1.0 / (step + 1), 4, 2, FLAT, EVERY)
    rates.observe(0, torch.tensor([1.0, 1.0], dtype=torch.float64))
    rates.observe(1, torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert rates.at(4).tolist() == [0.5 / 5, 1.0 / 5]


def test_a_change_too_small_is_measured_in_the_scheduled_rate():
    """Half of a rate of 1e-2 is more than 3e-3, half of one of 5e-3 is less."""
    rule = Plateau(factor=0.5, patience=0, smallest_change=3e-3)
    rates = LearningRates(lambda step: 1e-2, 9, 1, FLAT, rule)
    for epoch in range(4):
        rates.observe(epoch, both(1.0))
    assert rates.at(4).tolist() == [5e-3, 5e-3]


def test_averaged_members_go_from_where_they_stood_to_swas_rate_and_others_go_on():
    averaging = SWA(start=0.5, learning_rate=0.1, anneal=0.5)
    averaged = torch.tensor([True, False])
    rates = LearningRates(lambda step: 1.0, 8, 2, FLAT, EVERY, averaging, averaged)
    assert rates.first_averaged == 4
    seen = []
    for epoch in range(8):
        seen.append(rates.at(2 * epoch))
        assert torch.equal(seen[-1], rates.at(2 * epoch + 1))
        rates.observe(epoch, both(1.0))
    mine, other = torch.stack(seen).T
    assert other.tolist() == [1.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625]
    assert mine[:4].tolist() == [1.0, 1.0, 0.5, 0.25]
    for done in range(4):
        torch.testing.assert_close(mine[4 + done].reshape(1), averaging.rate_after(done, 8, both(0.125)[:1]))


def test_averaging_starts_from_the_rate_of_the_last_step_before_it():
    averaging = SWA(start=0.5, learning_rate=0.1, anneal=0.5)
    rates = LearningRates(lambda step: 10.0 - step, 4, 3, FLAT, averaging=averaging)
    assert rates.at(6).tolist() == [10.0 - 5, 10.0 - 5]
    at_once = LearningRates(
        lambda step: 10.0 - step, 4, 3, FLAT, averaging=SWA(start=0.0, learning_rate=0.1, anneal=0.5)
    )
    assert at_once.at(0).tolist() == [10.0, 10.0]


def test_what_changes_can_be_stored_and_continued():
    def started():
        return LearningRates(lambda step: 1.0, 9, 1, FLAT, Plateau(factor=0.5, patience=1))

    whole, resumed = started(), started()
    for epoch in range(3):
        whole.observe(epoch, torch.tensor([1.0, 2.0 - epoch], dtype=torch.float64))
    resumed.restore({name: value.clone() for name, value in whole.tensors().items()})
    for epoch in range(3, 6):
        for rates in (whole, resumed):
            rates.observe(epoch, both(1.0))
        assert torch.equal(whole.at(epoch + 1), resumed.at(epoch + 1))
    assert whole.at(6).tolist() == [0.25, 0.5]
    assert set(LearningRates(lambda step: 1.0, 9, 1, FLAT).tensors()) == {"factors"}


def test_the_plateau_rule_is_told_the_rate_of_an_epochs_last_step():
    asked = []
    rates = LearningRates(lambda step: asked.append(step) or 1.0, 4, 3, FLAT, EVERY)
    for epoch in range(3):
        rates.observe(epoch, both(1.0))
    assert asked == [2, 5, 8]
