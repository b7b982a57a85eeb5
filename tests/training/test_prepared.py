import pytest
import torch
from torch import nn

from bayes_influence.moments import UnsupportedOperationError
from bayes_influence.training.prepared import prepared_objective
from bayes_influence.training.schemes import find_schemes


class Unfollowed(nn.Module):
    """A mean over features, two by two: no rule follows their covariance through it."""

    def __init__(self):
        super().__init__()
        self.before, self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 3)

    def forward(self, inputs):
        return self.head(self.layer(torch.relu(self.before(inputs))).unflatten(-1, (2, 2)).mean(-1))


class Logarithms(nn.Module):
    """A logarithm, which has moments to first order only."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.head((self.layer(inputs).abs() + 1).log())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Unfollowed,
            r"with structure 'calibrated-covariance'; .* \{'structure': 'calibrated'\}\).*--structure calib",
        ),
        (Logarithms, r"method 'exact' and structure 'calibrated-covariance'; .*--method first-order --structure diag"),
    ],
)
def test_a_rule_that_is_missing_says_which_moments_have_it(iris, network, message):
    schemes = find_schemes(["bnn"], {"method": "exact", "structure": "calibrated-covariance"})
    with pytest.raises(UnsupportedOperationError, match=message):
        prepared_objective(schemes[0], network, iris.train, 0)
    simple = find_schemes(["bnn"], {"method": "first-order", "structure": "diagonal"})
    assert prepared_objective(simple[0], network, iris.train, 0).is_bayesian


def test_a_rule_that_is_missing_under_all_moments_is_missing_without_advice(iris):
    class Sorting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.head(torch.cumprod(self.layer(inputs), -1))

    for method in ("first-order", "exact"):
        (scheme,) = find_schemes(["bnn"], {"method": method})
        with pytest.raises(UnsupportedOperationError, match="cumprod") as caught:
            prepared_objective(scheme, Sorting, iris.train, 0)
        assert "find_schemes" not in str(caught.value)
