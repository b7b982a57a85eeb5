"""What tells one set of trained networks and data from another."""

from __future__ import annotations

import hashlib
from typing import Any

from bayes_influence.data.dataset import Dataset
from bayes_influence.torch_internals import tree_leaves


def fingerprint(params: Any, *datasets: Dataset) -> str:
    """SHA-256 over trained parameters (any nesting of tensors), inputs, targets and weights, bit for bit."""
    digest = hashlib.sha256()
    for leaf in tree_leaves((params, [data.batch() for data in datasets])):
        digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
