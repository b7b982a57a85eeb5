"""Fused kernels written out in operations that have every derivative.

Torch's kernels for these have no forward mode, no second derivative or no batching rule, and some derivatives are
wrong without a word (torch 2.13): weight normalisation's second one, whose Hessian is not symmetric, and those of layer
and instance normalisation's forward derivative, nested or in the inputs. The formulas are slower and equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import log, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from bayes_influence.torch_internals import weight_norm


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """The formula g v / ||v||, the norm over all axes but one; over all of them for dim = -1."""
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    return v * (g / v.square().sum(dim=axes, keepdim=dim != -1).sqrt())


def _huber(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Tensor:
    """e^2 / 2 up to |e| = delta, delta (|e| - delta / 2) beyond."""
    error = input - target
    inside = error.abs() <= delta
    losses = torch.where(inside, 0.5 * error.square(), delta * (error.abs() - 0.5 * delta))
    return _reduced(losses if weight is None else weight * losses, reduction)


def _multi_margin(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """sum_{j != y} max(0, margin - x_y + x_j)^p / C."""
    own = input.gather(-1, target.unsqueeze(-1))
    others = torch.arange(input.shape[-1], device=input.device) != target.unsqueeze(-1)
    terms = (margin - own + input).clamp(min=0) ** p
    if weight is not None:
        terms = terms * weight[target].unsqueeze(-1)
    return _reduced((terms * others).sum(dim=-1) / input.shape[-1], reduction)


def _gaussian_nll(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log s^2 + e^2 / s^2) / 2 for a variance s^2 of at least eps, with a gradient as if it were not bounded."""
    variance = torch.as_tensor(var, dtype=input.dtype, device=input.device)
    if variance.ndim and variance.ndim < input.ndim:
        variance = variance.unsqueeze(-1)
    variance = variance + (variance.clamp(min=eps) - variance).detach()
    losses = 0.5 * (variance.log() + (input - target).square() / variance)
    return _reduced(losses + 0.5 * log(2 * pi) if full else losses, reduction)


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of a table; the padding row has no gradient."""
    if max_norm is not None or scale_grad_by_freq:
        return functional.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    rows = weight[input]
    if padding_idx is None:
        return rows
    return torch.where((input == padding_idx % len(weight)).unsqueeze(-1), rows.detach(), rows)


def _embedding_bag(input: Tensor, weight: Tensor, offsets: Any = None, *args: Any, **options: Any) -> Tensor:
    """The sum or mean of rows of a table; other bags are left to torch."""
    names = ("max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights")
    given = dict(zip(names, args, strict=False)) | options
    mode, scales, padding = (given.get(name) for name in ("mode", "per_sample_weights", "padding_idx"))
    plain = offsets is None and given.get("max_norm") is None and not given.get("scale_grad_by_freq")
    if not plain or input.ndim != 2 or mode not in (None, "mean", "sum"):
        return functional.embedding_bag(input, weight, offsets, *args, **options)
    kept = torch.ones_like(input, dtype=weight.dtype)
    if padding is not None:
        kept = (input != padding % len(weight)).to(weight.dtype)
    factors = kept if scales is None else kept * scales
    total = (weight[input] * factors.unsqueeze(-1)).sum(dim=1)
    return total if mode == "sum" else total / kept.sum(dim=1, keepdim=True).clamp(min=1)


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the last axes, times weight plus bias."""
    return _scaled(_standardised(input, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def _instance_norm(
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """The same over all axes behind the channels; with running statistics it is left to torch."""
    if not use_input_stats or running_mean is not None:
        return functional.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    shape = (-1, *[1] * (input.ndim - 2))
    factors = [None if value is None else value.view(shape) for value in (weight, bias)]
    return _scaled(_standardised(input, tuple(range(2, input.ndim)), eps), *factors)


def _standardised(input: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = input - input.mean(dim=axes, keepdim=True)
    return centred * (centred.square().mean(dim=axes, keepdim=True) + eps).rsqrt()


def _scaled(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = values if weight is None else values * weight
    return scaled if bias is None else scaled + bias


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return {"mean": losses.mean, "sum": losses.sum}[reduction]() if reduction != "none" else losses


FORMULAS: dict[Any, Callable[..., Tensor]] = {
    weight_norm: _weight_norm,
    functional.huber_loss: _huber,
    functional.multi_margin_loss: _multi_margin,
    functional.gaussian_nll_loss: _gaussian_nll,
    functional.embedding: _embedding,
    functional.embedding_bag: _embedding_bag,
    functional.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    functional.instance_norm: _instance_norm,
}
"""What is called in a function's place."""


class _Formulas(TorchFunctionMode):
    """While active, calls the formulas."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """The formula where there is one, else the function."""
        return FORMULAS.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def plain_formulas() -> Iterator[None]:
    """While active, fused kernels are left aside: attention, encoders, recurrent layers and `FORMULAS`."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(_Formulas())
        yield
