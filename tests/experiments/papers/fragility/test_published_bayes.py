"""The published Bayesian network, against its formulas written out with loops over layers, examples and classes."""

from math import exp, floor, log, log10, tanh

import pytest
import torch

from bayes_influence.data.tables import leave_out, load_table
from bayes_influence.experiments.papers.fragility import published_bayes
from bayes_influence.experiments.papers.fragility.published_bayes import (
    TERM_WEIGHTS,
    EstimatedLoss,
    SoftmaxTwice,
    divergences,
    kl_power,
    published_members,
    split_outputs,
    term_weights,
)

SIZES = (4, 3, 5, 2, "tanh")


@pytest.fixture(scope="module")
def train():
    return leave_out(load_table("iris"), 83).train


@pytest.fixture(scope="module")
def members(train):
    return published_members(SIZES, train, [0, 1], ["one", "other"])


def _by_hand(params, row):
    """Means and variances of one example after the softmax, one unit at a time."""
    mean, variance = row.tolist(), [0.0] * len(row)
    for layer in range(3):
        mu, sigma = (
            {part: params[f"layers.{layer}.{kind}.{part}"].tolist() for part in ("weight", "bias")}
            for kind in ("mu", "sigma")
        )
        if layer:
            variance = [v * (1 - tanh(m) ** 2) ** 2 for m, v in zip(mean, variance, strict=True)]
            mean = [tanh(m) for m in mean]
        new_mean, new_variance = [], []
        for weights, bias, spreads, offset in zip(
            mu["weight"], mu["bias"], sigma["weight"], sigma["bias"], strict=True
        ):
            new_mean.append(sum(w * m for w, m in zip(weights, mean, strict=True)) + bias)
            own = offset
            for w, s, m, v in zip(weights, spreads, mean, variance, strict=True):
                own += log(1 + exp(s)) * m * m + (v * (log(1 + exp(s)) + w * w) if layer else 0.0)
            new_variance.append(own)
        mean, variance = new_mean, new_variance
    total = sum(exp(m) for m in mean)
    mean = [exp(m) / total for m in mean]
    return mean, [v * (p * (1 - p)) ** 2 for p, v in zip(mean, variance, strict=True)]


def test_moments_pass_as_published(members, train):
    one = members.at(0)
    mean, variance, alpha = split_outputs(one.outputs(one.params, train.inputs[:3]))
    for index in range(3):
        expected_mean, expected_variance = _by_hand(one.params, train.inputs[index])
        assert mean[index].tolist() == pytest.approx(expected_mean, rel=1e-5)
        assert variance[index].tolist() == pytest.approx(expected_variance, rel=1e-5)
    assert torch.equal(alpha, one.params[TERM_WEIGHTS][:1].expand(3))


def test_the_trained_loss_is_the_published_expression(members, train):
    one = members.at(1)
    mean, variance, _ = split_outputs(one.outputs(one.params, train.inputs))
    spread = torch.log(1 + torch.exp(torch.clamp(variance, 0, 88)))
    one_hot = torch.nn.functional.one_hot(train.targets, num_classes=3)
    log_determinant = torch.mean(torch.log(torch.prod(spread, dim=1)))
    mismatched = torch.mean(((one_hot - mean) ** 2).T @ torch.reciprocal(spread))
    alpha, tau, *betas = one.params[TERM_WEIGHTS].tolist()
    kl = sum(beta * float(own) for beta, own in zip(betas, divergences(one.params), strict=True))
    expected = alpha * float(log_determinant) + float(mismatched) + tau * kl
    assert float(one.value(one.params, train.batch())) == pytest.approx(expected, rel=1e-6)


def test_divergences_are_means_over_weights(members):
    params = members.at(0).params
    weight, spread = params["layers.1.mu.weight"], torch.log1p(torch.exp(params["layers.1.sigma.weight"]))
    terms = 5 * spread + torch.linalg.matrix_norm(weight) ** 2 - 5 - 5 * torch.log(spread)
    assert float(divergences(params)[1]) == pytest.approx(float(0.5 * terms.mean()), rel=1e-6)


def test_the_estimate_has_another_loss_and_the_test_a_second_softmax(members, train):
    one = members.at(0)
    outputs = one.outputs(one.params, train.inputs[:1])
    mean, variance, _ = split_outputs(outputs)
    spread = torch.log1p(torch.exp(variance.clamp(min=0)))[0]
    residual = (torch.nn.functional.one_hot(train.targets[:1], 3) - mean)[0].square()
    crossed = sum(float(r / s) for r in residual for s in spread) / 9
    expected = 0.001 * float(torch.log(spread).sum()) + crossed
    assert float(EstimatedLoss()(outputs, train.targets[:1])) == pytest.approx(expected, rel=1e-6)
    target = int(train.targets[0])
    twice = -torch.log_softmax(mean, dim=1)[0, target]
    assert float(SoftmaxTwice()(outputs, train.targets[:1])) == pytest.approx(float(twice))


def test_terms_are_weighted_by_powers_of_ten_of_the_first_batch(members, train):
    assert term_weights(0, 1, [2, 3], (1, 0)) == [1.0, 10.0, 1.0, 0.1]
    assert term_weights(1, 0, [2, 2], (-1, -2))[:2] == pytest.approx([0.01, 10.0**-4])
    one = members.at(0)
    smallest = min(floor(log10(float(own))) for own in divergences(one.params))
    mean, variance, _ = split_outputs(one.outputs(one.params, train.inputs))
    spread = torch.log1p(torch.exp(variance.clamp(min=0)))
    one_hot = torch.nn.functional.one_hot(train.targets, 3)
    residual = floor(log10(float((((one_hot - mean) ** 2).T @ (1 / spread)).mean())))
    determinant = floor(log10(float(torch.log(spread).sum(1).mean())))
    own = one.params[TERM_WEIGHTS].tolist()
    assert own[:2] == pytest.approx([10.0 ** (residual - determinant - 1), 10.0 ** (residual - smallest - 2)])


def test_every_script_has_its_own_power_of_the_divergence():
    assert [kl_power(1, width) for width in (5, 8, 14, 20, 30, 50)] == [
        (1, 0),
        (1, 0),
        (1, -1),
        (1, -1),
        (1, -2),
        (1, -2),
    ]
    assert kl_power(4, 5) == (-1, -2)


def test_term_weights_are_not_trained(members):
    assert TERM_WEIGHTS not in members.objective.names


def test_a_member_depends_on_its_seed_alone(members, train):
    alone = published_members(SIZES, train, [1], ["other"])
    assert all(torch.equal(members.params[name][1], value[0]) for name, value in alone.params.items())


def test_a_seed_without_powers_of_ten_is_refused(train, monkeypatch):
    monkeypatch.setattr(published_bayes, "DRAWS", 0)
    with pytest.raises(ValueError, match="seed 3 gave no network with positive loss terms in 0 draws"):
        published_members(SIZES, train, [3], ["third"])
