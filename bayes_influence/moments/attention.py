"""Scaled dot product attention, made of the rules of products and of softmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bayes_influence.moments.arithmetic import add, multiply
from bayes_influence.moments.dropout import dropout
from bayes_influence.moments.linear import matmul
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.registry import UnsupportedOperationError, rule
from bayes_influence.moments.softmax import softmax


@rule(F.scaled_dot_product_attention)
def scaled_dot_product_attention(
    query: Tensor | Moments,
    key: Tensor | Moments,
    value: Tensor | Moments,
    attn_mask: Tensor | Moments | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Moments:
    """softmax(q k' c + mask) v, c = 1/sqrt(d), with queries, keys and values as if they were independent.

    Products are exact for independent factors, the softmax is first order with its full Jacobian. That all three come
    from the same activations is neglected, as in any branch that meets itself again; `moment_check` shows what it
    costs.

    Raises:
        UnsupportedOperationError: If queries share their keys in groups, or the mask is random.
    """
    if enable_gqa or isinstance(attn_mask, Moments):
        raise UnsupportedOperationError(
            "attention of Moments takes a fixed mask and as many heads of keys as of queries; repeat the keys, and "
            "compute the mask from fixed tensors"
        )
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores: Any = _product(query, _transposed(key))
    scores = multiply(scores, factor) if isinstance(scores, Moments) else scores * factor
    mask = _additive(attn_mask, is_causal, scores)
    if mask is not None:
        scores = add(scores, mask) if isinstance(scores, Moments) else scores + mask
    if not isinstance(scores, Moments):
        weights: Any = torch.softmax(scores, -1)
        return matmul(F.dropout(weights, dropout_p), value)
    weights = dropout(softmax(scores, dim=-1), dropout_p)
    return matmul(weights, value)


def _product(left: Any, right: Any) -> Any:
    random = isinstance(left, Moments) or isinstance(right, Moments)
    return matmul(left, right) if random else left @ right


def _transposed(key: Any) -> Any:
    if not isinstance(key, Moments):
        return key.mT
    return Moments(key.expectation.mT, key.variance.mT, key.approximation)


def _additive(mask: Tensor | None, is_causal: bool, scores: Any) -> Tensor | None:
    """What is added to the scores: 0 where a key takes part and -inf where it does not."""
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(~mask, -torch.inf)
