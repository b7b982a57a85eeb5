from math import cos, pi

import pytest

from bayes_influence.training.minibatch_schedule import MinibatchSchedule, full_batches
from bayes_influence.training.optimisers import Adam
from bayes_influence.training.schedules import Schedule


def test_batches_cover_the_examples():
    schedule = MinibatchSchedule(batch_size=64)
    assert [schedule.batches(n) for n in (1, 64, 65, 128)] == [1, 1, 2, 2]


def test_cosine_goes_from_the_rate_to_nearly_zero_after_a_linear_warmup():
    schedule = MinibatchSchedule(learning_rate=0.5, decay="cosine", warmup=0.2)
    rates = [schedule.rate(step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5 / 3, 1.0 / 3, 0.5])
    assert rates[2:] == pytest.approx([0.25 * (1 + cos(pi * step / 8)) for step in range(8)])


def test_full_batches_keep_the_rate_where_no_plateau_would_lower_it():
    kept = full_batches(Schedule(epochs=5, learning_rate=0.1, plateau=None), 7)
    assert [kept.rate(step, 5) for step in range(5)] == [0.1] * 5
    lowered = full_batches(Schedule(epochs=5, learning_rate=0.1), 7)
    assert [lowered.rate(step, 5) for step in range(5)] == pytest.approx(
        [0.05 * (1 + cos(pi * step / 5)) for step in range(5)]
    )


def test_a_constant_rate_is_constant():
    assert {MinibatchSchedule(learning_rate=0.1).rate(step, 7) for step in range(7)} == {0.1}


def test_the_regularisers_weight_rises_to_one_and_stays():
    schedule = MinibatchSchedule(annealing=0.5)
    factors = [schedule.regulariser_factor(step, 6) for step in range(6)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    assert {MinibatchSchedule().regulariser_factor(step, 6) for step in range(6)} == {1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs and batch_size must be at least 1, got epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"learning_rate": 0.0}, "learning rate and clip must be positive, got learning_rate=0.0"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"decay": "step"}, "unknown decay 'step'; known: constant, cosine"),
        ({"warmup": 1.0}, r"warmup must lie in \[0, 1\)"),
        ({"annealing": 1.5}, "got 0.0 and 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MinibatchSchedule(**settings)


def test_one_epoch_of_single_examples_is_a_schedule():
    assert MinibatchSchedule(epochs=1, batch_size=1).batches(7) == 7


def test_what_a_schedule_has_unless_said_otherwise():
    assert MinibatchSchedule() == MinibatchSchedule(10, 128, 1e-3, Adam(), "constant", 0.0, None, 0.0, None)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_counts_are_whole_numbers(name):
    with pytest.raises(TypeError, match=f"{name} must be"):
        MinibatchSchedule(**{name: 2.5})


def test_every_positive_clip_is_one():
    assert [MinibatchSchedule(clip=clip).clip for clip in (0.1, 1.0, 7.0, None)] == [0.1, 1.0, 7.0, None]
