"""Torch's attention and encoder layers as plain modules of linear layers, for tensors and for `Moments`.

`nn.MultiheadAttention` holds the weights of its three projections as one parameter, and hands everything to one
function. Here each projection is an `nn.Linear` of its own; what is computed is the same.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bayes_influence.moments.moments import Moments

UNFOLDED = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""What is unfolded, by exact type."""


class UnfoldedAttention(nn.Module):
    """`nn.MultiheadAttention` of four linear layers: softmax(q k' / sqrt(d) + mask) v for every head, projected.

    Attributes:
        q_proj: Of the queries.
        k_proj: Of the keys.
        v_proj: Of the values.
        out_proj: Of the heads' outputs together.
        num_heads: How many heads.
        batch_first: Whether inputs are (batch, length, features), or (length, batch, features).
        dropout: p of dropping a weight of the attention in training mode.
    """

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first, self.dropout = layer.num_heads, layer.batch_first, layer.dropout
        packed, apart = layer.in_proj_weight, (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        weights: Any = apart if packed is None else packed.chunk(3)
        biases = (None, None, None) if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
        trained = [whole.requires_grad for whole in (apart if packed is None else [packed] * 3)]
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases, trained)
        own = layer.out_proj
        self.out_proj = _linear(own.weight, own.bias, own.weight.requires_grad)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Any, Any]:
        """As of `nn.MultiheadAttention`: the outputs, and the weights where they are asked for.

        Masks are fixed; True in one leaves a key out, and numbers are added. `is_causal` says that `attn_mask` is, as
        in torch, and is no mask itself.
        """
        batched = query.ndim == 3
        if not batched:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        q, k, v = (
            self._heads(_independent(project(x)))
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        for mask in self._masks(attn_mask, key_padding_mask, batched, scores):
            scores = scores + mask
        weights = functional.softmax(scores, dim=-1)
        mixed = functional.dropout(weights, self.dropout, self.training) @ v
        outputs = self.out_proj(mixed.transpose(1, 2).flatten(2))
        shown = None
        if need_weights:
            shown = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return outputs.squeeze(0), None if shown is None else shown.squeeze(0)
        return (outputs if self.batch_first else outputs.transpose(0, 1)), shown

    def _heads(self, projected: Any) -> Any:
        """(batch, heads, length, features of a head)."""
        batch, length, features = projected.shape
        return projected.reshape(batch, length, self.num_heads, features // self.num_heads).transpose(1, 2)

    def _masks(self, attn_mask: Tensor | None, padding: Tensor | None, batched: bool, like: Any) -> list[Tensor]:
        """What is added to the scores (batch, heads, queries, keys)."""
        found = []
        if attn_mask is not None:
            mask = attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (-1, self.num_heads))
            found.append(_additive(mask, like))
        if padding is not None:
            found.append(_additive((padding if batched else padding.unsqueeze(0))[:, None, None], like))
        return found


class UnfoldedEncoderLayer(nn.Module):
    """`nn.TransformerEncoderLayer` with its attention unfolded, without torch's fused kernel.

    Attributes:
        self_attn: The attention.
        norm_first: Whether a branch is normalised before it, or after it is added.
        activation: Between the two linear layers.
    """

    linear1: nn.Linear
    linear2: nn.Linear
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    dropout: nn.Dropout
    dropout1: nn.Dropout
    dropout2: nn.Dropout

    def __init__(self, layer: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.self_attn = _unfolded_in_place(layer.self_attn)
        for name in ("linear1", "dropout", "linear2", "norm1", "norm2", "dropout1", "dropout2"):
            setattr(self, name, getattr(layer, name))
        self.norm_first, self.activation = layer.norm_first, layer.activation

    def forward(
        self,
        src: Any,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """As of `nn.TransformerEncoderLayer`."""
        if self.norm_first:
            attended = src + self._attended(self.norm1(src), src_mask, src_key_padding_mask, is_causal)
            return attended + self._fed_forward(self.norm2(attended))
        attended = self.norm1(src + self._attended(src, src_mask, src_key_padding_mask, is_causal))
        return self.norm2(attended + self._fed_forward(attended))

    def _attended(self, x: Any, mask: Tensor | None, padding: Tensor | None, is_causal: bool) -> Any:
        outputs = self.self_attn(
            x, x, x, attn_mask=mask, key_padding_mask=padding, need_weights=False, is_causal=is_causal
        )[0]
        return self.dropout1(outputs)

    def _fed_forward(self, x: Any) -> Any:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


def unfolded(network: nn.Module) -> nn.Module:
    """A deep copy of a network whose attention and encoder layers of torch are unfolded; hooks go over.

    Parameters of an attention get other names: `q_proj.weight`, `k_proj.weight`, `v_proj.weight` and their biases
    instead of `in_proj_weight` and `in_proj_bias`. An attention with `bias_k` or `add_zero_attn` stays as it is.

    Args:
        network: Any; left as it is.
    """
    return _unfolded_in_place(deepcopy(network))


def _unfolded_in_place(module: nn.Module) -> nn.Module:
    if type(module) is nn.MultiheadAttention and can_unfold(module):
        return _taking_hooks(UnfoldedAttention(module), module)
    if type(module) is nn.TransformerEncoderLayer and can_unfold(module.self_attn):
        return _taking_hooks(UnfoldedEncoderLayer(module), module)
    for name, child in module.named_children():
        successor = _unfolded_in_place(child)
        if successor is not child:
            setattr(module, name, successor)
    return module


def can_unfold(layer: Any) -> bool:
    """Whether an attention has nothing but its projections: no key and value that are always there."""
    plain = type(layer) is nn.MultiheadAttention and layer.bias_k is None and not layer.add_zero_attn
    return plain and "forward" not in vars(layer)


def _independent(x: Any) -> Any:
    """Without the covariance that moments may have: within an attention entries count as independent."""
    return x.marginal if isinstance(x, Moments) else x


def _linear(weight: Tensor, bias: Tensor | None, requires_grad: bool) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=requires_grad)
    return layer


def _additive(mask: Tensor, like: Any) -> Tensor:
    """A mask whose True leaves a key out as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf)


def _taking_hooks(successor: nn.Module, module: nn.Module) -> nn.Module:
    for name, value in vars(module).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            vars(successor)[name] = value
    return successor.train(module.training)
