import pytest
import torch
from torch import nn

from bayes_influence.moments import Moments, to_bayesian
from bayes_influence.moments.sampling import SAMPLES_AT_ONCE, Posterior, RunningMoments, check_ready

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network():
    return to_bayesian(nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 2)).double(), initial_sigma=0.5).eval()


def test_posterior_separates_random_from_fixed_parameters(network):
    posterior = Posterior.of(network)
    assert set(posterior.means) == {"0.weight", "0.bias", "1.weight", "2.weight", "2.bias"}
    assert set(posterior.variances) == set(posterior.means) - {"1.weight"}
    assert torch.allclose(posterior.variances["0.weight"], torch.full((4, 3), 0.25 / 3, dtype=DOUBLE))
    assert type(posterior.network[0]) is nn.Linear


def test_draws_have_the_posterior_moments_and_leave_the_rest_fixed(network, assert_match):
    posterior = Posterior.of(network)
    draws = posterior.draw(4_000, seeded())
    for name, variance in posterior.variances.items():
        assert_match(Moments(posterior.means[name], variance), draws[name])
    assert torch.equal(draws["1.weight"], posterior.means["1.weight"].expand(4_000, 1))


def test_draws_do_not_depend_on_how_many_are_taken_at_once(network):
    posterior, generator = Posterior.of(network), seeded()
    together = posterior.draw(3, seeded())
    for i in range(3):
        assert torch.equal(posterior.draw(1, generator)["0.weight"][0], together["0.weight"][i])


def test_samples_come_in_pieces_and_repeat_with_the_seed(network):
    x = torch.randn(5, 3, dtype=DOUBLE)
    first, second = (list(Posterior.of(network).samples(x, SAMPLES_AT_ONCE + 3, seeded(1))) for _ in range(2))
    assert [len(piece) for piece in first] == [SAMPLES_AT_ONCE, 3]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = next(Posterior.of(network).samples(x, 2, seeded(2)))
    assert not torch.allclose(other, first[0][:2])
    unseeded, zero = (next(Posterior.of(network).samples(x, 2, g)) for g in (None, seeded(0)))
    assert torch.equal(unseeded, zero)


def test_random_inputs_are_drawn_too(assert_match):
    layer = to_bayesian(nn.Linear(3, 2).double(), initial_sigma=0.5).eval()
    x = Moments(torch.randn(2, 3, dtype=DOUBLE), torch.rand(2, 3, dtype=DOUBLE))
    samples = torch.cat(list(Posterior.of(layer).samples(x, 8_000, None)))
    assert_match(layer(x), samples)


def test_running_moments_are_those_of_all_samples_together():
    samples = 1000 + torch.randn(37, 4, dtype=DOUBLE)
    running = RunningMoments()
    for piece in samples.split(8):
        running.add(piece)
    assert torch.allclose(running.moments.expectation, samples.mean(0))
    assert torch.allclose(running.moments.variance, samples.var(0))


def test_nothing_is_written_to_standard_output(network, capsys):
    list(Posterior.of(network).samples(torch.zeros(1, 3, dtype=DOUBLE), 20, None, progress=True))
    assert capsys.readouterr().out == ""


def test_bad_requests_are_refused(network):
    with pytest.raises(ValueError, match="n_samples must be at least 2 to have a variance, got 1"):
        next(Posterior.of(network).samples(torch.zeros(1, 3), 1, None))
    with pytest.raises(ValueError, match="Linear has no Bayesian layer"):
        Posterior.of(nn.Linear(2, 2))
    training = to_bayesian(nn.Sequential(nn.Linear(3, 3), nn.Dropout())).train()
    with pytest.raises(ValueError, match=r"'1' is in training mode; call \.eval\(\)"):
        Posterior.of(training)


def test_attention_drops_weights_in_training_mode_and_is_refused():
    for dropout in (0.0, 0.1):
        twin = to_bayesian(nn.TransformerEncoderLayer(4, 2, 8, dropout=dropout)).eval()
        twin.self_attn.train()
        if dropout:
            with pytest.raises(ValueError, match=r"'self_attn' is in training mode; call \.eval\(\)"):
                check_ready(twin)
        else:
            check_ready(twin)
