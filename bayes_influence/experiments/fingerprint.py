"""What tells one set of trained networks and data from another."""

from __future__ import annotations

import hashlib

from torch.utils._pytree import tree_leaves

from bayes_influence.data.dataset import Dataset
from bayes_influence.training.fits import Fits


def fingerprint(fits: Fits, *datasets: Dataset) -> str:
    """SHA-256 over trained parameters, inputs and targets, bit for bit."""
    digest = hashlib.sha256()
    for leaf in tree_leaves((fits.params, [(data.inputs, data.targets) for data in datasets])):
        digest.update(leaf.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
