import pytest
import torch

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.experiments.ground_truth.stored_refits import stored_refits
from bayes_influence.models.mlp import MLP
from bayes_influence.retraining.protocols import Minimum, Warm
from bayes_influence.retraining.refits import losses_after
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Deterministic


@pytest.fixture(scope="module")
def train():
    return logistic_classes(30, n_features=3, n_classes=3, seed=1).dataset


@pytest.fixture(scope="module")
def fits(train):
    scheme = Deterministic("l2", decay=0.05)
    (found,) = fit_schemes([scheme], lambda: MLP(3, 3, width=3, activation="tanh"), train, [0, 1], Schedule(60, 0.05))
    return found


@pytest.fixture
def removed():
    return torch.tensor([[3, 17, 21], [0, 8, 29]])


@pytest.mark.parametrize("watched", [False, True])
def test_stored_refits_are_the_protocol_s(fits, train, removed, watched, tmp_path):
    protocol = Warm(Schedule(5), watch=train) if watched else Minimum()
    stored = stored_refits(protocol, fits, train, removed, tmp_path / "refits", per_cell=2, progress=False)
    whole = protocol.refit(fits, train, removed)
    for name, value in whole.params.items():
        torch.testing.assert_close(stored.params[name], value, rtol=0, atol=1e-9)
    torch.testing.assert_close(losses_after(stored, train), losses_after(whole, train))
    assert torch.equal(stored.converged, whole.converged)
    if watched:
        torch.testing.assert_close(stored.watched, whole.watched)


def test_a_killed_retraining_goes_on_behind_what_is_stored(fits, train, removed, tmp_path, monkeypatch):
    refit, asked = Minimum.refit, []

    def killed_at_the_second(self, *arguments, **options):
        asked.append(len(asked))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return refit(self, *arguments, **options)

    monkeypatch.setattr(Minimum, "refit", killed_at_the_second)
    for _ in range(2):
        try:
            found = stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", per_cell=1, progress=False)
        except KeyboardInterrupt as error:
            assert "1 of 3 cells are stored" in str(error)  # noqa: PT017
    assert len(asked) == 4
    assert found.converged.shape == (2, 4)


def test_what_does_not_fit_is_refused(fits, train, removed, tmp_path):
    stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", progress=False)
    with pytest.raises(ValueError, match=r"another configuration: groups is .* there and .* here"):
        stored_refits(Minimum(), fits, train, removed.flip(0), tmp_path / "refits", progress=False)
    with pytest.raises(ValueError, match="a cell holds at least 1 removal, got per_cell=0"):
        stored_refits(Minimum(), fits, train, removed, tmp_path / "other", per_cell=0)
