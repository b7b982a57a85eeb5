import numpy as np
import pytest
import torch

from bayes_influence.evaluation.label_noise import (
    RATES,
    SHARPNESS,
    STRANGE,
    TAIL,
    LabelNoise,
    _confusion,
    label_noise,
)


def drawn(n, classes, rate, seed, *, pairwise=False, spread=3.0):
    """Predictions, true classes drawn as the model with beta = 2 has them, and labels of which `rate` are wrong."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, classes)) * spread
    predictions = torch.softmax(torch.from_numpy(logits), dim=1)
    logs = predictions.log()
    belief = torch.softmax(-2 * (logs.amax(1, keepdim=True) - logs) ** TAIL, dim=1).numpy()
    true = np.array([random.choice(classes, p=row / row.sum()) for row in belief])
    shift = 1 if pairwise else random.integers(1, classes, n)
    labels = np.where(random.random(n) < rate, (true + shift) % classes, true)
    return predictions, torch.from_numpy(true), torch.from_numpy(labels)


@pytest.mark.parametrize(("classes", "pairwise"), [(2, False), (4, False), (4, True)])
@pytest.mark.parametrize("rate", [0.03, 0.2])
def test_probabilities_and_rates_are_those_of_labels_drawn_from_the_model(classes, pairwise, rate):
    claimed, wrong, flagged, rates = [], [], [], []
    for seed in range(6):
        predictions, true, labels = drawn(1000, classes, rate, seed, pairwise=pairwise, spread=8.0)
        found = label_noise(predictions, labels)
        claimed.append(found.wrong)
        wrong.append((labels != true).double())
        flagged.append(found.flagged(0.1))
        rates.append(found.rate)
    claims, truths, listed = torch.cat(claimed), torch.cat(wrong), torch.cat(flagged)
    assert sum(rates) / 6 == pytest.approx(float(truths.mean()), rel=0.15)
    for low, high in [(0.0, 0.1), (0.1, 0.6), (0.6, 1.0)]:
        part = (claims >= low) & (claims < high)
        assert int(part.sum()) > 10
        assert float(truths[part].mean()) == pytest.approx(float(claims[part].mean()), abs=0.12)
    assert 0.05 < float((1 - truths)[listed].mean()) < 0.13
    assert float(truths[listed].sum() / truths.sum()) > 0.5


def test_the_right_class_is_proposed_and_the_posterior_adds_up():
    predictions, true, labels = drawn(2000, 4, 0.1, 2, spread=6.0)
    found = label_noise(predictions, labels)
    sure = found.flagged(0.1)
    assert (found.proposed != labels).all()
    assert float((found.proposed == true)[sure].double().mean()) > 0.85
    torch.testing.assert_close(found.posterior.sum(1), torch.ones(2000, dtype=torch.float64))
    torch.testing.assert_close(found.posterior[torch.arange(2000), labels], 1 - found.wrong)


def test_a_wrong_direction_that_many_labels_share_is_learned():
    predictions, true, labels = drawn(3000, 4, 0.2, 3, pairwise=True, spread=1.5)
    found = label_noise(predictions, labels)
    wrong = labels != true
    assert float((found.proposed == true)[wrong].double().mean()) > 0.9
    usual = float((predictions.argmax(1) == true)[wrong].double().mean())
    assert float((found.proposed == true)[wrong].double().mean()) > usual


def test_of_two_classes_it_is_the_average_over_the_grid():
    predictions, _, labels = drawn(60, 2, 0.1, 4)
    p = predictions.numpy()
    y = labels.numpy()
    logs = np.log(p + 1e-12)
    distance = (logs.max(1, keepdims=True) - logs) ** TAIL
    total, mean, rate = 0.0, np.zeros(60), 0.0
    for beta in SHARPNESS.tolist():
        belief = np.exp(-beta * distance)
        belief /= belief.sum(1, keepdims=True)
        own = belief[np.arange(60), y]
        for pi in RATES.tolist():
            mixed = (1 - pi) * ((1 - STRANGE) * own + STRANGE / 2) + pi * (1 - own)
            weight = np.exp(np.log(mixed).sum())
            total, rate = total + weight, rate + weight * pi
            mean += weight * pi * (1 - own) / mixed
    found = label_noise(predictions, labels)
    np.testing.assert_allclose(found.wrong.numpy(), mean / total, rtol=1e-6)
    assert found.rate == pytest.approx(rate / total)


def test_lists_are_by_probability_and_as_long_as_the_rate_allows():
    wrong = torch.tensor([0.2, 0.99, 0.85, 0.01, 0.9], dtype=torch.float64)
    noise = LabelNoise(0.1, torch.zeros(5, 2, dtype=torch.float64), wrong, torch.zeros(5, dtype=torch.int64))
    expected = [(0.01 + 0.1 + 0.15 + 0.8) / 4, 0.01, 0.26 / 3, (0.26 + 0.8 + 0.99) / 5, 0.055]
    assert noise.false_discovery_rate.tolist() == pytest.approx(expected)
    assert noise.flagged(0.1).tolist() == [False, True, True, False, True]
    assert noise.flagged(0.005).tolist() == [False] * 5
    with pytest.raises(ValueError, match="the level of a false-discovery rate lies between 0 and 1, got 1"):
        noise.flagged(1)


def test_a_class_that_a_network_excludes_is_a_likely_and_not_a_certain_error():
    """softmax of float32 reaches 0 and 1, of which the logarithm is taken; and some right labels are strange."""
    predictions = torch.eye(3).repeat_interleave(20, dim=0)
    labels = predictions.argmax(dim=1)
    labels[0] = 1
    found = label_noise(predictions, labels)
    assert torch.isfinite(found.posterior).all()
    assert 0.8 < float(found.wrong[0]) < 0.95
    assert float(found.wrong[1:].max()) < 0.01
    assert int(found.proposed[0]) == 0


def test_a_confusion_of_classes_that_no_label_names_stays_a_distribution():
    predictions = torch.tensor([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]], dtype=torch.float64)
    confusion = _confusion(predictions, torch.tensor([0, 0]))
    torch.testing.assert_close(confusion.sum(dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(confusion[0], torch.tensor([0, 0.5, 0.5], dtype=torch.float64))
    assert (confusion + torch.eye(3) > 0).all()


def test_what_is_no_probability_or_no_class_is_refused():
    with pytest.raises(ValueError, match=r"probabilities lie between 0 and 1; take softmax\(logits\)"):
        label_noise(torch.tensor([[3.0, -1.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="probabilities lie between 0 and 1"):
        label_noise(torch.tensor([[1.5, 0.1]]), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"labels must be one class in 0\.\.1 for each of 1 examples"):
        label_noise(torch.tensor([[0.5, 0.5]]), torch.tensor([2]))
