import pytest
import torch

from bayes_influence.moments.sources import (
    Covariance,
    Source,
    blocks_of,
    joined,
    own_part,
    summed,
    traced_back,
    unchecked,
)

DOUBLE = torch.float64


def source(*variances, parent=None, slope=1.0, affine=False):
    found = torch.tensor([variances], dtype=DOUBLE)
    return Source(lambda: found, parent, lambda: slope, affine)


def test_a_child_is_its_parents_part_and_a_rest_that_makes_up_its_variance():
    parent = source(1.0, 4.0)
    child = source(3.0, 4.0, parent=parent, slope=torch.tensor([[0.5, -1.0]], dtype=DOUBLE))
    assert torch.equal(child.rest.variances, torch.tensor([[2.75, 0.0]], dtype=DOUBLE))
    assert child.rest is child.rest
    assert child.rest.root is child.rest
    assert child.root is parent.root is parent
    columns = torch.randn(1, 3, 2, dtype=DOUBLE)
    back = traced_back({child: columns, parent: torch.ones(1, 3, 2, dtype=DOUBLE)})
    assert set(back) == {parent, child.rest}
    torch.testing.assert_close(back[parent], 1 + columns * torch.tensor([0.5, -1.0], dtype=DOUBLE))
    assert torch.equal(back[child.rest], columns)


def test_what_is_affine_in_its_parent_leaves_no_rest():
    parent = source(1.0, 4.0)
    grandchild = source(
        9.0, 36.0, parent=source(1.0, 4.0, parent=parent, slope=-1.0, affine=True), slope=3.0, affine=True
    )
    back = traced_back({grandchild: torch.ones(1, 1, 2, dtype=DOUBLE)})
    assert list(back) == [parent]
    assert torch.equal(back[parent], torch.full((1, 1, 2), -3.0, dtype=DOUBLE))


def test_columns_of_a_sum_and_the_variance_that_they_share():
    a, b = source(1.0, 2.0), source(3.0)
    eye, ones = torch.eye(2, dtype=DOUBLE), torch.ones(1, 2, 1, dtype=DOUBLE)
    total = joined(summed({a: eye}, {b: ones, a: 2 * eye}), torch.ones(1, 2, dtype=DOUBLE))
    assert total.sources == (a, b)
    assert torch.equal(total.columns[0], torch.tensor([[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]], dtype=DOUBLE))
    assert torch.equal(total.variances, torch.tensor([[1.0, 2.0, 3.0]], dtype=DOUBLE))
    assert torch.equal(total.shared, torch.tensor([[12.0, 21.0]], dtype=DOUBLE))
    halved = total.scaled(0.5)
    torch.testing.assert_close(blocks_of(halved)[a], 1.5 * eye.unsqueeze(0))
    assert torch.equal(halved.shared, total.shared / 4)
    assert blocks_of(None) == {}


def test_own_parts_are_what_the_columns_leave_and_never_negative():
    total = joined({source(1.0, 2.0): torch.eye(2, dtype=DOUBLE)}, torch.ones(1, 2, dtype=DOUBLE))
    variance = torch.tensor([[1.5, 1.9]], dtype=DOUBLE)
    assert torch.equal(own_part(variance, total), torch.tensor([[0.5, 0.0]], dtype=DOUBLE))
    assert own_part(variance, None) is variance
    complete = Covariance(*total.tensors, total.sources, complete=True)
    assert torch.equal(own_part(variance, complete), torch.zeros(1, 2, dtype=DOUBLE))
    assert not complete.scaled(2.0).complete


def test_unknown_sources_are_said_to_be_unknown():
    total = joined({source(1.0, 2.0): torch.eye(2, dtype=DOUBLE)}, torch.ones(1, 2, dtype=DOUBLE))
    with pytest.raises(LookupError, match="the sources of a covariance are not known"):
        blocks_of(unchecked(total.tensors))
