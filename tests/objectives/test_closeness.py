import pytest
import torch

from bayes_influence.objectives.closeness import check_same, close


@pytest.mark.parametrize(
    ("first", "second", "allowed"), [(2.0, 0.0, 2.0), (0.0, 2.0, 4.0), (1e-4, 0.0, 1e-3), (0.0, -1e-3, 2e-3)]
)
def test_close_is_equal_but_for_rounding_of_an_entry_and_the_largest(first, second, allowed):
    """By eps^(1/2) (|a_i| + max(max |a|, 1e-3)), eps that of the dtype."""
    one = torch.tensor([first, second]).double()
    step = torch.tensor([0.0, allowed * 2.0**-26]).double()
    assert close(one, one + 0.99 * step)
    assert close(one, one - 0.99 * step)
    assert not close(one, one + 1.01 * step)
    assert not close(one, one - 1.01 * step)


def test_close_is_of_one_shape():
    one = torch.ones(3)
    assert close(one, one)
    assert not close(one, one[:1])


def test_the_example_whose_losses_differ_most_is_named():
    losses, again = torch.tensor([4.0, 2.0]).double(), torch.tensor([4.5, 2.25]).double()
    check_same(losses, losses.clone(), "train", (9, 2))
    message = r"train: the loss of an example depends .* of its batch, as made: 4 among 9, 4\.5 among 2\. Nothing"
    with pytest.raises(ValueError, match=message):
        check_same(losses, again, "train", (9, 2), ", as made")
