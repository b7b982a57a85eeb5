import pytest
import torch
from torch.func import grad, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.torch_internals import make_fx, tree_flatten, tree_map, tree_unflatten

INPUTS, TARGETS, WEIGHTS = torch.arange(12.0).reshape(6, 2), torch.arange(6) % 2, torch.tensor([0, 1, 2, 0.5, 4, 8])


@pytest.mark.parametrize(("batch", "parts"), [(Batch(INPUTS, TARGETS), 2), (Batch(INPUTS, TARGETS, WEIGHTS), 3)])
def test_a_batch_is_a_pytree(batch, parts):
    leaves, structure = tree_flatten(batch)
    assert len(leaves) == parts
    assert tree_unflatten(leaves, structure).inputs is batch.inputs
    assert tree_map(lambda leaf: leaf[:2], batch).targets.tolist() == [0, 1]
    assert tree_map(lambda _: None, batch).targets is None

    def loss(scale, one):
        value = (scale * one.inputs).sum() + one.targets
        return value if one.weights is None else one.weights * value

    found = vmap(grad(loss), in_dims=(None, 0))(torch.tensor(2.0), batch)
    expected = INPUTS.sum(1) if batch.weights is None else WEIGHTS * INPUTS.sum(1)
    assert torch.equal(found, expected)
    traced = make_fx(vmap(grad(loss), in_dims=(None, 0)))(torch.tensor(2.0), batch)
    assert torch.equal(traced(torch.tensor(3.0), batch), expected)


def test_weights_multiply_losses_and_their_roots_products():
    batch, losses = Batch(INPUTS, TARGETS, WEIGHTS), torch.linspace(1, 2, 6)
    torch.testing.assert_close(batch.weighted(losses), WEIGHTS * losses)
    rooted = batch.with_root_weights()
    torch.testing.assert_close(rooted.weighted(losses) * rooted.weighted(losses), WEIGHTS * losses**2)
    plain = Batch(INPUTS, TARGETS)
    assert plain.weighted(losses) is losses
    assert plain.with_root_weights() is plain
