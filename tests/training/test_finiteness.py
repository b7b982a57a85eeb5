import pytest
import torch

from bayes_influence.training.finiteness import NonFiniteTrainingError, check_finite

VALUES = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.inf, 3.0], [torch.nan, torch.inf, 3.0]])


def test_finite_objectives_pass():
    check_finite(VALUES[:1], 0, ["a", "b", "c"])


def test_the_first_step_and_its_first_member_are_named():
    with pytest.raises(NonFiniteTrainingError, match=r"^b: the objective became inf at step 8; lower the"):
        check_finite(VALUES, 7, ["a", "b", "c"])
    with pytest.raises(NonFiniteTrainingError, match=r"^a: the objective became nan at step 9"):
        check_finite(VALUES[2:], 9, ["a", "b", "c"])
