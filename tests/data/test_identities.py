import numpy as np
import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.identities import example_ids, example_positions

pytestmark = pytest.mark.usefixtures("as_installed")

MASK = torch.tensor([False, True, True, False])

NO_IDS = [
    (MASK, TypeError, "must be whole numbers, got booleans; choose"),
    (MASK.numpy(), TypeError, "got booleans"),
    (MASK.tolist(), TypeError, "got booleans"),
    ([1, True], TypeError, "got booleans"),
    ([1, np.True_], TypeError, "got booleans"),
    (True, TypeError, "got booleans"),
    (torch.tensor(True), TypeError, "got booleans"),
    (1.0, TypeError, "must be whole numbers, got float; give each as an int"),
    (torch.tensor([1.7]), TypeError, "got float32"),
    (torch.tensor(1.0), TypeError, "got float32"),
    (np.array([1.0]), TypeError, "got float64"),
    ([1, 2.0], TypeError, "got float;"),
    ([torch.tensor(1), torch.tensor(2.0)], TypeError, "got float32;"),
    ("12", TypeError, "got str"),
    (["1", None], TypeError, "got NoneType, str"),
    (None, TypeError, "got NoneType"),
    (slice(0, 2), TypeError, "got slice"),
    (torch.tensor([1j]), TypeError, "got complex64"),
    (torch.tensor([[0, 1]]), ValueError, r"must be one list of whole numbers, got shape \(1, 2\); flatten it"),
    ([torch.tensor([0]), torch.tensor([1])], ValueError, r"got shape \(2, 1\)"),
    ([[0, 1], [2]], TypeError, "got list"),
]


@pytest.mark.parametrize(
    "ids",
    [
        [3, 1, 3],
        (3, 1, 3),
        iter([3, 1, 3]),
        torch.tensor([3, 1, 3]),
        torch.tensor([3, 1, 3], dtype=torch.uint8),
        np.array([3, 1, 3], dtype=np.int32),
        [np.int64(3), 1, torch.tensor(3)],
    ],
)
def test_ids_in_any_list_keep_order_and_repeats(ids):
    found = example_ids(ids)
    assert found.dtype == torch.int64
    assert found.tolist() == [3, 1, 3]


@pytest.mark.parametrize("one", [7, np.int32(7), torch.tensor(7), np.array(7)])
def test_one_id_is_a_list_of_one(one):
    assert example_ids(one).tolist() == example_positions(one, 8).tolist() == [7]


@pytest.mark.parametrize("none", [[], (), range(0), torch.tensor([]), np.zeros(0), torch.zeros(0, dtype=torch.int64)])
def test_no_ids_are_an_empty_list(none):
    found = example_ids(none)
    assert (found.dtype, found.tolist()) == (torch.int64, [])


@pytest.mark.parametrize(("ids", "error", "message"), NO_IDS)
def test_what_is_no_id(ids, error, message):
    data = Dataset(torch.zeros(4, 1), torch.zeros(4), torch.arange(4))
    for take in (example_ids, data.at, data.without, data.positions):
        with pytest.raises(error, match=f"ids .*{message}"):
            take(ids)
    for take in (lambda positions: example_positions(positions, 4), data.select):
        with pytest.raises(error, match=f"positions .*{message}"):
            take(ids)


def test_advice_for_a_mask_works():
    data = Dataset(torch.arange(4.0), torch.zeros(4), torch.tensor([7, 5, 9, 8]))
    with pytest.raises(TypeError, match=r"choose ids with a mask, dataset\.ids\[mask\]"):
        data.at(MASK)
    assert data.at(data.ids[MASK]).ids.tolist() == [5, 9]
    with pytest.raises(TypeError, match=r"choose positions with a mask, mask\.nonzero\(\)\.flatten\(\)"):
        data.select(MASK)
    assert data.select(MASK.nonzero().flatten()).ids.tolist() == [5, 9]


@pytest.mark.parametrize("positions", [[0, 4], [-1], 4])
def test_positions_outside_the_data(positions):
    with pytest.raises(ValueError, match=r"positions must lie in 0\.\.3, got \[(4|-1)\]"):
        example_positions(positions, 4)
