"""Which modules convert: layers that become Bayesian, modules of torch.nn that stay, and why any other does not."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from torch import nn

from bayes_influence.moments.convolution import BayesianConv, BayesianTransposedConv
from bayes_influence.moments.embedding import BayesianEmbedding
from bayes_influence.moments.layers import BayesianLayer, BayesianLinear
from bayes_influence.moments.own_parameters import is_ones_own
from bayes_influence.moments.unfolded import UNFOLDED

CONVERTED: dict[type[nn.Module], type[BayesianLayer]] = {
    nn.Linear: BayesianLinear,
    nn.Conv1d: BayesianConv,
    nn.Conv2d: BayesianConv,
    nn.Conv3d: BayesianConv,
    nn.ConvTranspose1d: BayesianTransposedConv,
    nn.ConvTranspose2d: BayesianTransposedConv,
    nn.ConvTranspose3d: BayesianTransposedConv,
    nn.Embedding: BayesianEmbedding,
}
"""Layers whose weights become Gaussian, by exact type: a subclass may compute something else."""

ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.LogSoftmax,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softmax,
    nn.Softmax2d,
    nn.Softmin,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
POOLINGS = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMALISATIONS = (
    *_BATCH_NORMS,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.RMSNorm,
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
PADDINGS = tuple(
    getattr(nn, f"{mode}Pad{spatial}d")
    for mode in ("Circular", "Constant", "Reflection", "Replication", "Zero")
    for spatial in (1, 2, 3)
)
RESAMPLINGS = (nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
SHUFFLES = (nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle)

PASSED: frozenset[type[nn.Module]] = frozenset(
    {
        nn.Sequential,
        nn.ModuleList,
        nn.ModuleDict,
        nn.Identity,
        nn.TransformerEncoder,
        nn.Flatten,
        nn.Unflatten,
        *RESAMPLINGS,
        *SHUFFLES,
        *PADDINGS,
        *POOLINGS,
        *NORMALISATIONS,
        *DROPOUTS,
        *ACTIVATIONS,
    }
)
"""Modules of torch.nn that stay as they are: they call functions that have rules. Their own parameters stay fixed."""


def reason_against(module: nn.Module) -> str | None:
    """Why moments cannot go through the module itself, its children aside; None if they can."""
    kind, own = type(module), {name for name, _ in module.named_parameters(recurse=False)}
    if "_orig_mod" in module._modules:
        return "is compiled; convert the network that it was compiled of, and compile the twin"
    if "forward" in vars(module):
        return "has a forward that was set on the instance; write it into a class of its own"
    if module._backward_hooks or module._backward_pre_hooks:
        return "has a backward hook, which gradients of moments pass by; remove it"
    if isinstance(module, BayesianLayer):
        return "is Bayesian already; convert the deterministic network"
    astray = [name for name, value in vars(module).items() if _holds_modules(value)]
    if astray:
        return (
            f"keeps a function {astray[0]!r} that holds on to modules; a copy of the network would still call those of "
            "the original. Make it a method"
        )
    if kind is nn.Embedding and (module.padding_idx is not None or module.max_norm is not None or module.sparse):
        return "has a padding_idx, a max_norm or sparse gradients; build it without, a random row knows none of these"
    if kind in CONVERTED:
        more = {name for part in (module.named_buffers(), module.named_children()) for name, _ in part}
        if not own <= {"weight", "bias"}:
            return (
                f"has the parameters {sorted(own)}; remove its parametrisation, pruning or weight normalisation first"
            )
        return f"holds {sorted(more)} beside its weights, which would be lost; move them elsewhere" if more else None
    if kind in _BATCH_NORMS and not module.track_running_stats:
        return "keeps no running statistics; build it with track_running_stats=True and train it first"
    if getattr(module, "return_indices", False):
        return "returns indices, and which entry is the largest is random; build it with return_indices=False"
    if kind in PASSED:
        return None
    if kind in UNFOLDED:
        return "has keys and values that are always there; build its attention without add_bias_kv and add_zero_attn"
    if kind.__module__.startswith("torch."):
        return "has no moment rule; replace it by supported modules, see bayes_influence.moments.supported.PASSED"
    if own and not is_ones_own(module):
        return (
            f"holds the parameters {sorted(own)} itself, and how it uses them is unknown; put them into supported "
            "layers (matched by exact type, so not a subclass of one), or add a BayesianLayer for it to "
            "bayes_influence.moments.supported.CONVERTED"
        )
    return None


def _holds_modules(value: Any) -> bool:
    """Whether a function closes over modules, or has them as defaults: a deep copy of a network keeps it as it is."""
    if not isinstance(value, FunctionType):
        return False
    closed_over = inspect.getclosurevars(value).nonlocals.values()
    return any(isinstance(held, nn.Module) for held in (*closed_over, *(value.__defaults__ or ())))
