"""Torch's attention and encoder layers unfolded: the same function, convertible, and with the moments of samples."""

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.moments import UnsupportedModuleError, check_twin, sampled_moments, to_bayesian, to_deterministic
from bayes_influence.moments.unfolded import UnfoldedAttention, UnfoldedEncoderLayer, unfolded
from bayes_influence.objectives.prediction import predict
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule

DOUBLE = torch.float64
PADDING = torch.tensor([[False] * 3 + [True] * 4, [False] * 7, [False] * 5 + [True] * 2])
LEFT_OUT = torch.eye(5, 7, dtype=torch.bool)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"need_weights": False},
        {"key_padding_mask": PADDING},
        {"attn_mask": LEFT_OUT, "average_attn_weights": False},
        {"attn_mask": LEFT_OUT.to(DOUBLE).repeat(6, 1, 1)},
        {"attn_mask": LEFT_OUT, "key_padding_mask": PADDING},
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_attention_computes_what_torchs_does(options, apart):
    sizes = {"kdim": 6, "vdim": 4} if apart else {}
    layer = nn.MultiheadAttention(8, 2, batch_first=True, bias=not apart, **sizes).double().eval()
    query = torch.randn(3, 5, 8, dtype=DOUBLE)
    key, value = (torch.randn(3, 7, sizes.get(name, 8), dtype=DOUBLE) for name in ("kdim", "vdim"))
    found, expected = (each(query, key, value, **options) for each in (unfolded(layer), layer))
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] is None) == (expected[1] is None)
    if found[1] is not None:
        torch.testing.assert_close(found[1], expected[1])


def test_attention_without_a_batch_and_with_lengths_first():
    layer = nn.MultiheadAttention(8, 2).double().eval()
    x = torch.randn(5, 3, 8, dtype=DOUBLE)
    for inputs in (x, x[:, 0]):
        for found, expected in zip(unfolded(layer)(*[inputs] * 3), layer(*[inputs] * 3), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_encoders_convert_and_have_the_moments_of_samples(norm_first, batch_first):
    torch.manual_seed(0)
    options = {"norm_first": norm_first, "batch_first": batch_first, "activation": "gelu"}
    layer = nn.TransformerEncoderLayer(8, 2, 16, **options).double().eval()
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 8, dtype=DOUBLE)
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=DOUBLE) if batch_first else None
    torch.testing.assert_close(unfolded(network)(x, causal), network(x, causal))
    twin = to_bayesian(network, method="exact", initial_sigma=0.1)
    check_twin(network, twin, x)
    back = to_deterministic(twin)
    assert isinstance(back.layers[0], UnfoldedEncoderLayer)
    torch.testing.assert_close(back(x), network(x))
    found, sampled = twin(x), sampled_moments(twin, x, n_samples=1500)
    ratio = (found.variance / sampled.variance).median()
    error = ((found.expectation - sampled.expectation) / sampled.standard_deviation).square().mean().sqrt()
    assert 0.75 < ratio < 1.15
    assert error < 0.12


def test_an_attention_takes_its_hooks_modes_and_frozen_parameters_along():
    layer = nn.MultiheadAttention(4, 2, dropout=0.5).eval()
    layer.in_proj_weight.requires_grad_(False)
    called = []
    layer.register_forward_hook(lambda *_: called.append(True))
    found = unfolded(nn.ModuleDict({"attention": layer}))["attention"]
    assert isinstance(found, UnfoldedAttention)
    assert not found.training
    assert found.dropout == 0.5
    assert [name for name, value in found.named_parameters() if not value.requires_grad] == [
        f"{part}_proj.{name}" for part in "qkv" for name in ("weight", "bias")
    ]
    found(*[torch.randn(3, 1, 4)] * 3)
    assert called == [True]


@pytest.mark.parametrize("frozen", "qkv")
def test_each_of_an_attentions_parts_is_frozen_as_its_own_weight_is(frozen):
    layer = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, bias=False).requires_grad_(False)
    for part in "qkv".replace(frozen, ""):
        getattr(layer, f"{part}_proj_weight").requires_grad_(True)
    found = unfolded(nn.ModuleDict({"attention": layer}))["attention"]
    trained = [name for name, value in found.named_parameters() if value.requires_grad]
    assert trained == [f"{part}_proj.weight" for part in "qkv".replace(frozen, "")]


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_an_attention_with_keys_that_are_always_there_is_refused(options):
    with pytest.raises(UnsupportedModuleError, match="1: MultiheadAttention has keys and values that are always there"):
        to_bayesian(nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2, **options)))


def test_a_shared_attention_is_refused():
    layer = nn.MultiheadAttention(4, 2)
    with pytest.raises(ValueError, match=r"'0\.in_proj_weight' and '1\.in_proj_weight' are one parameter"):
        to_bayesian(nn.ModuleList([layer, layer]))


class ViT(nn.Module):
    """Patches of 4 x 4 pixels as tokens, an encoder of torch, and the mean of its outputs."""

    def __init__(self, n_classes=3):
        super().__init__()
        self.patches, self.places = nn.Conv2d(1, 8, 4, stride=4), nn.Embedding(4, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, n_classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = tokens + self.places(torch.arange(4, device=images.device))
        return self.head(self.norm(self.encoder(tokens)).mean(1))


def test_a_small_vit_converts_trains_and_predicts():
    torch.manual_seed(0)
    network = ViT()
    images, labels = torch.randn(36, 1, 8, 8), torch.arange(36) % 3
    for example, label in enumerate(labels):
        images[example, 0, :4, :4] += 1.5 * (int(label) - 1)
    data = bi.Dataset(images, labels, torch.arange(36), "bright corners")
    twin = to_bayesian(network)
    check_twin(network, twin, images[:4])
    objective = bi.Objective(twin, bi.TiltedCategorical(), bi.GaussianKL(36), 0.1)
    start = {name: value.unsqueeze(0) for name, value in objective.params.items()}
    trained = train_minibatches(objective, start, data, MinibatchSchedule(12, 36, 0.05), [0])
    assert trained.accuracies[-1] > 0.9
    one = trained.at(0)
    found = predict(one, images[:10], mode="diagonal")
    drawn = predict(one, images[:10], mode="sampled", n_samples=100)
    assert (found.classes == labels[:10]).float().mean() > 0.7
    assert (found.probabilities - drawn.probabilities).abs().mean() < 0.1
