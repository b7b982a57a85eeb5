import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bayes_influence.data.dataset import Dataset, Split, check_dataset


def dataset(n=6, **changes):
    parts = {
        "inputs": torch.arange(2.0 * n).reshape(n, 2),
        "targets": torch.arange(n) % 2,
        "ids": torch.arange(n) + 10,
        "name": "toy",
        "class_names": ("even", "odd"),
    }
    return Dataset(**{**parts, **changes})


def test_ids_survive_selection():
    chosen = dataset().select([4, 1])
    assert chosen.ids.tolist() == [14, 11]
    assert chosen.inputs.tolist() == [[8.0, 9.0], [2.0, 3.0]]
    assert chosen.without(14).ids.tolist() == [11]
    assert chosen.at([11, 14]).inputs.tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_examples_are_checked_once(monkeypatch):
    whole = dataset()
    monkeypatch.setattr("bayes_influence.data.dataset.check_finite", lambda *_: pytest.fail("checked again"))
    assert len(whole.without(12).select([0, 2])) == 2
    assert len(list(whole.batches(2))) == 3


@pytest.mark.parametrize(("positions", "message"), [([], "at least one example"), ([1, 1], "ids must be unique")])
def test_selections_that_are_no_datasets(positions, message):
    with pytest.raises(ValueError, match=message):
        dataset().select(positions)


def test_positions_are_where_the_ids_stand():
    shuffled = dataset().select([5, 0, 3])
    assert shuffled.positions([13, 15]).tolist() == [2, 0]
    assert shuffled.positions(torch.tensor(10)).tolist() == [1]


def test_nested_inputs_are_selected_together():
    nested = dataset(inputs={"left": torch.arange(6.0), "right": (torch.arange(6.0) * 2,)})
    chosen = nested.at([15, 10])
    assert chosen.inputs["left"].tolist() == [5.0, 0.0]
    assert chosen.inputs["right"][0].tolist() == [10.0, 0.0]


def test_batches_cover_everything_in_order():
    batches = list(dataset().batches(4))
    assert [len(batch.targets) for batch in batches] == [4, 2]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), dataset().inputs)
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        next(dataset().batches(0))


def test_to_casts_real_tensors_only():
    moved = dataset().to(dtype=torch.float64)
    assert moved.inputs.dtype == torch.float64
    assert moved.targets.dtype == moved.ids.dtype == torch.int64


def test_number_of_classes():
    assert dataset().n_classes == 2
    assert dataset(class_names=()).n_classes == 2
    with pytest.raises(TypeError, match="toy has real targets"):
        _ = dataset(targets=torch.arange(6.0), class_names=()).n_classes


def test_no_examples():
    with pytest.raises(ValueError, match="at least one example, got none"):
        dataset(n=0)


def test_an_id_twice():
    with pytest.raises(ValueError, match="ids must be unique"):
        dataset(ids=torch.tensor([1, 2, 3, 3, 4, 5]))


def test_unknown_id():
    with pytest.raises(ValueError, match=r"no example has id \[3, 99\]; ids run from 10 to 15"):
        dataset().without([10, 3, 99])


def test_removing_everything():
    with pytest.raises(ValueError, match="removing 6 examples leaves none"):
        dataset().without(range(10, 16))


def test_class_with_one_member_is_named():
    with pytest.raises(ValueError, match=r"toy: class 1 \(odd\) has 1 member, at least 2"):
        dataset(targets=torch.tensor([0, 1, 0, 0, 0, 0])).check_classes()


def test_a_class_of_one_is_enough_where_none_is_left_out():
    dataset(targets=torch.tensor([0, 1, 0, 0, 0, 0])).check_classes(fewest=1)
    with pytest.raises(ValueError, match=r"class 1 \(odd\) has 0 members, at least 1 are needed to learn it; add"):
        dataset(targets=torch.zeros(6, dtype=torch.int64)).check_classes(fewest=1)


def test_class_with_no_member():
    with pytest.raises(ValueError, match=r"class 1 \(odd\) has 0 members"):
        dataset(targets=torch.zeros(6, dtype=torch.int64)).check_classes()


def test_network_with_another_number_of_outputs():
    dataset().check_classes(n_outputs=2)
    with pytest.raises(
        ValueError, match=r"toy has 2 classes, but the network has 5 outputs; build it with n_outputs=2"
    ):
        dataset().check_classes(n_outputs=5)


def test_check_classes_of_a_regression():
    with pytest.raises(TypeError, match="toy has real targets"):
        dataset(targets=torch.arange(6.0), class_names=()).check_classes()


def test_split_refuses_shared_examples():
    with pytest.raises(ValueError, match=r"ids \[11\] are in the training and in the test part"):
        Split(dataset().at([10, 11]), dataset().at([11, 12]))


def weighted(**changes):
    return dataset(weights=torch.tensor([0.0, 1.0, 2.0, 0.5, 4.0, 8.0]), **changes)


def test_weights_stay_with_their_examples():
    whole = weighted()
    assert whole.select([4, 1]).weights.tolist() == [4.0, 1.0]
    assert whole.at([15, 12]).weights.tolist() == [8.0, 2.0]
    assert whole.without([10, 11, 12, 13]).weights.tolist() == [4.0, 8.0]
    assert [batch.weights.tolist() for batch in whole.batches(4)] == [[0.0, 1.0, 2.0, 0.5], [4.0, 8.0]]
    assert whole.to(dtype=torch.float64).weights.dtype == torch.float64
    assert whole.with_inputs(torch.zeros(6, 1)).weights is whole.weights
    assert dataset().batch().weights is dataset().without(10).weights is None


def test_examples_that_do_not_count_may_be_taken_out():
    assert weighted().at(10).to(dtype=torch.float64).with_inputs(torch.ones(1, 1)).weights.tolist() == [0.0]


def test_other_inputs_are_checked():
    moved = dataset().with_inputs({"features": torch.ones(6, 3)})
    assert (moved.inputs["features"].shape, moved.ids.tolist()) == ((6, 3), dataset().ids.tolist())
    with pytest.raises(ValueError, match=r"equally long, got lengths \[5, 6\]"):
        dataset().with_inputs(torch.ones(5, 3))
    with pytest.raises(ValueError, match="inputs must be finite, but 6 of 6"):
        dataset(inputs=torch.full((6, 1), 1e30)).to(dtype=torch.float16)


def test_ids_given_twice():
    assert dataset().positions([13, 11, 13]).tolist() == [3, 1, 3]
    assert dataset().without([13, 13]).ids.tolist() == [10, 11, 12, 14, 15]
    with pytest.raises(ValueError, match="ids must be unique"):
        dataset().at([13, 13])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            TensorDataset(torch.zeros(3)),
            r"got torch's TensorDataset; take Dataset\.of_examples",
        ),
        (DataLoader(TensorDataset(torch.zeros(3))), r"got a DataLoader; take Dataset\.of_examples\(loader\.dataset\)"),
        (torch.zeros(3), r"got torch's Tensor; .* or Dataset\(inputs, targets, ids\) of tensors"),
        ((torch.zeros(3), torch.zeros(3)), "got tuple"),
        (None, "got None"),
        (Split(dataset().at([10, 11]), dataset().at([12, 13])), r"got a Split; take its \.train or its \.test"),
    ],
)
def test_what_is_no_dataset(value, message, as_installed):
    with pytest.raises(TypeError, match=f"the training examples must be a Dataset.*{message}"):
        check_dataset(value, "the training examples")


def test_parts_of_a_split_are_datasets(as_installed):
    with pytest.raises(TypeError, match="the test part must be a Dataset of this library, got None"):
        Split(dataset(), None)
    with pytest.raises(TypeError, match="the training part must be a Dataset of this library, got None"):
        Split(None, dataset())


def test_a_dataset_prints_what_it_is():
    assert repr(dataset()) == "Dataset('toy', 6 examples of (2,) float32, 2 classes)"
    nested = weighted(
        inputs=(torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64)), targets=torch.zeros(6), class_names=()
    )
    assert repr(nested) == "Dataset('toy', 6 examples of (1,) float32 and () int64, real targets, weighted)"
