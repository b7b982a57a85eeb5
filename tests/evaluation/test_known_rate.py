import numpy as np
import pytest
import torch
from statsmodels.stats.proportion import proportions_ztest

from bayes_influence.evaluation.known_rate import AGREEING, RISE, _rise, doubt_of_rate


def searched(contradicted, classes=3):
    """Predictions, and labels that contradict the given share of each tenth of them, from the surest on."""
    count, tenth = 1000, 100
    sure = torch.linspace(0.99, 0.5, count, dtype=torch.float64)
    true = torch.arange(count) % classes
    probabilities = ((1 - sure) / (classes - 1))[:, None].repeat(1, classes)
    probabilities[torch.arange(count), true] = sure
    labels = true.clone()
    for number, share in enumerate(contradicted):
        rows = slice(number * tenth, number * tenth + round(share * tenth))
        labels[rows] = (true[rows] + 1) % classes
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return probabilities[mixed], labels[mixed]


def test_a_rate_is_told_where_the_surest_predictions_are_contradicted_as_often_as_the_next():
    flat = [0.1, 0.1, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.5, 0.6]
    assert doubt_of_rate(*searched(flat)) is None
    assert doubt_of_rate(*searched([0.2, *flat[1:]])) is None  # a fall is no reason to doubt
    falling = doubt_of_rate(*searched([0.1, 0.3, 0.2, *flat[3:]]))
    assert falling == (
        "the surest tenth of the held-out predictions contradicts 10.0% of the labels and the next two tenths 25.0%: "
        "networks are wrong even where they are sure"
    )


def test_the_rise_is_that_of_a_test_of_two_shares():
    first, second = torch.zeros(100, dtype=torch.float64), torch.zeros(200, dtype=torch.float64)
    first[:12], second[:41] = 1, 1
    expected, _ = proportions_ztest(np.array([41, 12]), np.array([200, 100]))
    assert _rise(first, second) == pytest.approx(expected)
    assert _rise(second, first) == pytest.approx(-expected)
    assert _rise(first[:0], second[:0]) == 0
    assert _rise(first[:5], first[:7]) == 0  # all alike


def test_a_rise_is_one_of_more_than_its_standard_errors():
    contradicted = [0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
    probabilities, labels = searched(contradicted)
    first, second = (torch.arange(n, dtype=torch.float64) < k for n, k in ((100, 10), (200, 40)))
    assert _rise(first.double(), second.double()) == pytest.approx(2.19, abs=0.01)
    assert doubt_of_rate(probabilities, labels) is None
    first, second = (torch.arange(n, dtype=torch.float64) < k for n, k in ((100, 8), (200, 40)))
    assert _rise(first.double(), second.double()) > RISE
    assert doubt_of_rate(*searched([0.08, *contradicted[1:]])) is not None


@pytest.mark.parametrize(("share", "doubted"), [(0.39, False), (0.41, True)])
def test_networks_must_predict_most_of_the_labels(share, doubted):
    found = doubt_of_rate(*searched([share] * 10))
    assert (found is not None) == doubted
    assert not doubted or found == (
        "held-out networks predict 59.0% of the labels, and at least 60% are needed: networks that know so little "
        "contradict many right labels"
    )
    assert AGREEING == 0.6


def test_classes_must_have_some_examples():
    labels = torch.arange(89) % 3
    sure = torch.full((89, 3), 0.05, dtype=torch.float64).scatter(1, labels[:, None], 0.9)
    assert doubt_of_rate(sure, labels) == (
        "there are 29.7 examples of a class on average, and at least 30 are needed: networks that see so few "
        "contradict many right labels"
    )
    assert doubt_of_rate(torch.cat([sure, sure[:1]]), torch.cat([labels, labels[:1]])) is None


def test_networks_that_learn_nothing_are_told():
    labels = (torch.arange(100) < 20).long()
    always = torch.tensor([[0.8, 0.2]], dtype=torch.float64).expand(100, 2)
    assert doubt_of_rate(always, labels) == (
        "held-out networks predict 80.0% of the labels, and the most frequent one alone 80.0%: they learn nothing here "
        "that would tell wrong labels from right ones"
    )
    better = always.clone()
    better[0] = torch.tensor([0.2, 0.8])
    assert doubt_of_rate(better, labels) is None


def test_the_surest_are_told_apart_where_single_precision_says_1():
    """Ones of single precision differ in what is left to the other classes."""
    probabilities, labels = searched([0.05, 0.3, 0.3, *[0.2] * 7])
    sharp = torch.softmax(10 * probabilities.log(), dim=1).float().double()
    assert (sharp.amax(dim=1) == 1).sum() > 300
    assert "the surest tenth of the held-out predictions contradicts 5.0%" in doubt_of_rate(sharp, labels)
