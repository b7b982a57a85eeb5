import re

import numpy as np
import pytest
import torch

from bayes_influence.objectives.hinge import SmoothHinge


@pytest.mark.parametrize("temperature", [0.001, 0.1, 2.0])
def test_it_is_the_temperate_softplus_of_what_the_margin_lacks(temperature):
    scores, targets = 3 * torch.randn(30, dtype=torch.float64), torch.randint(0, 2, (30,))
    signs = np.where(targets.numpy() == 1, 1.0, -1.0)
    expected = temperature * np.logaddexp(0, (1 - signs * scores.numpy()) / temperature)
    np.testing.assert_allclose(SmoothHinge(temperature)(scores, targets), expected, rtol=1e-12, atol=1e-300)


def test_at_no_temperature_it_is_the_hinge_which_it_exceeds_by_at_most_its_value_at_the_kink():
    scores, targets = torch.linspace(-3, 3, 601, dtype=torch.float64), torch.ones(601, dtype=torch.int64)
    hinge = SmoothHinge(0.0)(scores, targets)
    assert torch.equal(hinge, torch.where(scores < 1, 1 - scores, 0.0))
    assert torch.equal(SmoothHinge(0.0)(scores, 1 - targets), torch.where(scores > -1, 1 + scores, 0.0))
    excess = SmoothHinge(0.1)(scores, targets) - hinge
    assert float(excess.min()) > -1e-15
    assert float(excess.max()) == pytest.approx(0.1 * np.log(2))
    assert float(scores[excess.argmax()]) == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [0.001, 0.1])
def test_its_curvature_at_the_kink_is_a_quarter_over_the_temperature(temperature):
    def loss(score):
        return SmoothHinge(temperature)(score.reshape(1), torch.ones(1)).sum()

    at = torch.ones((), dtype=torch.float64)
    assert float(torch.func.grad(torch.func.grad(loss))(at)) == pytest.approx(1 / (4 * temperature))
    assert float(torch.func.grad(loss)(at)) == pytest.approx(-0.5)


@pytest.mark.parametrize("temperature", [0, 0.1])
def test_several_labels_are_summed_and_the_sign_of_a_score_says_which(temperature):
    scores, targets = torch.randn(9, 3, dtype=torch.float64), torch.randint(0, 2, (9, 3))
    hinge = SmoothHinge(temperature)
    expected = sum(hinge(scores[:, k], targets[:, k]) for k in range(3))
    torch.testing.assert_close(hinge(scores, targets), expected)
    right = (scores[:, 0] > 0) == (targets[:, 0] == 1)
    assert torch.equal(hinge.hits(scores[:, 0], targets[:, 0]), right.double())


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=re.escape("temperature must be at least 0, got -0.1")):
        SmoothHinge(-0.1)
    with pytest.raises(ValueError, match=r"needs labels that are 0 or 1.*take \(targets \+ 1\) / 2 for labels of -1"):
        SmoothHinge(0.1).check(torch.zeros(2), torch.tensor([-1, 1]))
    for name in ("entropy", "variance", "mutual_information"):
        with pytest.raises(TypeError, match=r"SmoothHinge\(temperature=0.1\) is no likelihood: its scores say which"):
            getattr(SmoothHinge(0.1), name)(torch.zeros(2))
