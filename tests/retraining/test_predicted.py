from functools import partial

import pytest
import torch

from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.minimum import newton_refits
from bayes_influence.retraining.predicted import predicted_refits
from bayes_influence.retraining.proximal import linear_response
from bayes_influence.retraining.refits import loss_changes


def _estimate(train, **options):
    return partial(Influence, train=train, **options)


@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
def test_gauss_newton_influence_predicts_its_own_linear_response(unfinished, train, convention):
    groups = Removals.of_groups([torch.tensor([3]), torch.arange(4, 9)], 2, convention)
    predicted = predicted_refits(unfinished, train, groups, _estimate(train, curvature="ggn", damping=0.05))
    response = linear_response(unfinished, train, groups, 0.05)
    for name, value in response.params.items():
        torch.testing.assert_close(predicted.params[name], value, rtol=1e-7, atol=1e-12)


def test_a_convex_problem_is_predicted_with_sign_and_size(regression, train, test, removed):
    predicted = predicted_refits(regression, train, removed, _estimate(train, damping=1e-9))
    true = loss_changes(regression, newton_refits(regression, train, removed), test)
    found = loss_changes(regression, predicted, test)
    assert torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1] > 0.99
    assert float((found * true).sum() / found.square().sum()) == pytest.approx(1.0, abs=0.2)


def test_nothing_removed_moves_nothing_and_nothing_was_minimised(regression, train, removed):
    predicted = predicted_refits(regression, train, removed, _estimate(train, damping=0.1))
    for name, value in regression.params.items():
        assert torch.equal(predicted.params[name][:, 0], value)
    assert predicted.gradient_norms.isnan().all()
    assert not predicted.converged.any()


def test_removals_for_another_number_of_seeds_are_refused(regression, train):
    with pytest.raises(ValueError, match="removals for 1 seeds, but there are fits of 2"):
        predicted_refits(regression, train, torch.tensor([[3]]), _estimate(train, damping=0.1))
