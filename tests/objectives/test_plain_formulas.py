"""Kernels written out, against torch's own."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bayes_influence.objectives.plain_formulas import FORMULAS, plain_formulas
from bayes_influence.torch_internals import weight_norm

GENERATOR = torch.Generator().manual_seed(0)


def reals(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


IMAGES, SCALE, SHIFT = reals(4, 3, 5, 6), reals(3), reals(3)
LOGITS, OTHERS, CLASSES = reals(6, 4), reals(6, 4), torch.tensor([0, 3, 1, 2, 2, 0])
TABLE, TOKENS = reals(7, 3), torch.tensor([[0, 2, 6], [5, 2, 2], [6, 6, 6], [1, 6, 0]])

CALLS = {
    "weight norm": (weight_norm, (reals(4, 3, 2), reals(4, 1, 1), 0), {}),
    "weight norm of the last axis": (weight_norm, (reals(4, 3, 2), reals(1, 1, 2), 2), {}),
    "huber": (F.huber_loss, (LOGITS, OTHERS), {}),
    "huber, sum": (F.huber_loss, (3 * LOGITS, OTHERS), {"reduction": "sum", "delta": 0.7}),
    "huber, none": (F.huber_loss, (3 * LOGITS, OTHERS), {"reduction": "none", "delta": 2.0}),
    "huber, weight": (F.huber_loss, (LOGITS, OTHERS), {"weight": OTHERS.abs()}),
    "multi margin": (F.multi_margin_loss, (LOGITS, CLASSES), {}),
    "multi margin, p = 2": (F.multi_margin_loss, (LOGITS, CLASSES, 2), {"margin": 0.4, "reduction": "none"}),
    "multi margin, weight": (F.multi_margin_loss, (LOGITS, CLASSES), {"weight": reals(4), "reduction": "sum"}),
    "embedding": (F.embedding, (TOKENS, TABLE), {}),
    "embedding, padding": (F.embedding, (TOKENS, TABLE), {"padding_idx": 2}),
    "embedding, last one padding": (F.embedding, (TOKENS, TABLE), {"padding_idx": -1}),
    "embedding, by frequency": (F.embedding, (TOKENS, TABLE), {"scale_grad_by_freq": True}),
    "embedding, norm": (F.embedding, (TOKENS, TABLE), {"max_norm": 0.8}),
    "embedding, other norm": (F.embedding, (TOKENS, TABLE), {"max_norm": 0.8, "norm_type": 1.0}),
    "bag": (F.embedding_bag, (TOKENS, TABLE), {}),
    "bag, sum": (F.embedding_bag, (TOKENS, TABLE), {"mode": "sum"}),
    "bag, padding": (F.embedding_bag, (TOKENS, TABLE), {"padding_idx": 6}),
    "bag, last one padding": (F.embedding_bag, (TOKENS, TABLE), {"padding_idx": -1, "mode": "sum"}),
    "bag, scales": (F.embedding_bag, (TOKENS, TABLE), {"mode": "sum", "per_sample_weights": reals(4, 3)}),
    "bag, max": (F.embedding_bag, (TOKENS, TABLE), {"mode": "max"}),
    "bag, norm": (F.embedding_bag, (TOKENS, TABLE), {"max_norm": 0.8}),
    "bag, by frequency": (F.embedding_bag, (TOKENS, TABLE), {"scale_grad_by_freq": True}),
    "bag, offsets": (F.embedding_bag, (TOKENS.flatten(), TABLE, torch.tensor([0, 4, 5])), {}),
    "layer norm": (F.layer_norm, (IMAGES, (6,), reals(6), reals(6)), {}),
    "layer norm of two axes": (F.layer_norm, (IMAGES, (5, 6)), {"eps": 0.1}),
    "layer norm, torch's": (torch.layer_norm, (IMAGES, (5, 6), reals(5, 6), reals(5, 6), 0.3), {}),
    "instance norm": (F.instance_norm, (IMAGES,), {}),
    "instance norm, scaled": (F.instance_norm, (IMAGES,), {"weight": SCALE, "bias": SHIFT, "eps": 0.2}),
    "instance norm of sequences": (F.instance_norm, (IMAGES[..., 0],), {"weight": SCALE, "bias": SHIFT}),
    "instance norm, running": (
        F.instance_norm,
        (IMAGES, SHIFT + 1, SCALE.square()),
        {"use_input_stats": False, "weight": SCALE, "bias": SHIFT},
    ),
}


def values_and_slopes(function, arguments, options):
    """And the gradients in every tensor that torch's kernel has some in."""
    moving = arguments[:1] if "instance" in getattr(function, "__name__", "") else arguments
    others = [] if "margin" in getattr(function, "__name__", "") else options.values()
    tensors = [value for value in (*moving, *others) if isinstance(value, torch.Tensor)]
    leaves = {id(value): value.clone().requires_grad_(value.is_floating_point()) for value in tensors}
    given = [leaves.get(id(value), value) for value in arguments]
    named = {name: leaves.get(id(value), value) for name, value in options.items()}
    result = function(*given, **named)
    if "max_norm" in options:  # torch scales the rows in place
        return result.detach(), []
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    weights = torch.linspace(-1, 2, result.numel(), dtype=torch.float64).view_as(result)
    return result, torch.autograd.grad((result * weights).sum(), wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("case", CALLS)
def test_a_formula_is_torchs_kernel_and_has_its_gradients(case):
    function, arguments, options = CALLS[case]
    if "max_norm" in options:
        arguments = (arguments[0], arguments[1].clone())
    expected = values_and_slopes(function, arguments, options)
    if "max_norm" in options:
        arguments = (arguments[0], TABLE.clone())
    found = values_and_slopes(FORMULAS[function], arguments, options)
    torch.testing.assert_close(found, (expected[0], tuple(expected[1]) if expected[1] else []))


def test_weight_norm_over_everything():
    """Torch's kernel has no such axis: there it is the formula itself."""
    v, g = reals(4, 3), reals(1)
    torch.testing.assert_close(FORMULAS[weight_norm](v, g, -1), g * v / torch.linalg.matrix_norm(v, "fro"))


def settings():
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )


def test_while_active_formulas_are_called_and_fused_kernels_left_aside(monkeypatch):
    monkeypatch.setitem(FORMULAS, F.huber_loss, lambda input, target, **_: input + target)
    before, kernel = settings(), F.huber_loss(LOGITS, OTHERS)
    with plain_formulas():
        assert torch.equal(F.huber_loss(LOGITS, OTHERS), LOGITS + OTHERS)
        assert not any(settings())
    assert torch.equal(F.huber_loss(LOGITS, OTHERS), kernel)
    assert settings() == before
    assert before[0]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with plain_formulas():
            pass
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
