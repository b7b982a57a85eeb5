import pytest
import torch

from bayes_influence.data.dataset import Dataset, Split


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
    monkeypatch.setattr(Dataset, "_check_finite", lambda *_: pytest.fail("checked again"))
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
        _ = dataset(targets=torch.arange(6.0)).n_classes


def test_parts_of_different_length():
    with pytest.raises(ValueError, match=r"equally long, got lengths \[5, 6\]"):
        dataset(targets=torch.zeros(5, dtype=torch.int64))


def test_no_examples():
    with pytest.raises(ValueError, match="at least one example, got none"):
        dataset(n=0)


def test_an_id_twice():
    with pytest.raises(ValueError, match="ids must be unique"):
        dataset(ids=torch.tensor([1, 2, 3, 3, 4, 5]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_input_names_the_first_example(value):
    inputs = torch.zeros(6, 2)
    inputs[2, 1] = inputs[4, 0] = value
    with pytest.raises(ValueError, match=r"inputs must be finite, but 2 of 6 .*the first is id 12"):
        dataset(inputs=inputs)


def test_non_finite_targets():
    with pytest.raises(ValueError, match="targets must be finite, but 1 of 6"):
        dataset(targets=torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, float("nan")]))


@pytest.mark.parametrize("label", [-1, 2])
def test_class_index_out_of_range(label):
    with pytest.raises(ValueError, match=r"class indices must lie in 0\.\.1"):
        dataset(targets=torch.tensor([0, 1, 0, 1, 0, label]))


def test_unknown_id():
    with pytest.raises(ValueError, match=r"no example has id \[3, 99\]; ids run from 10 to 15"):
        dataset().without([10, 3, 99])


def test_removing_everything():
    with pytest.raises(ValueError, match="removing 6 examples leaves none"):
        dataset().without(range(10, 16))


def test_class_with_one_member_is_named():
    with pytest.raises(ValueError, match=r"toy: class 1 \(odd\) has 1 member, at least 2"):
        dataset(targets=torch.tensor([0, 1, 0, 0, 0, 0])).check_classes()


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
        dataset(targets=torch.arange(6.0)).check_classes()


def test_split_refuses_shared_examples():
    with pytest.raises(ValueError, match=r"ids \[11\] are in the training and in the test part"):
        Split(dataset().at([10, 11]), dataset().at([11, 12]))
