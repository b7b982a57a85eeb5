"""Influence over training examples that are spread over processes, by `torch.distributed`.

With `curvature=Sharded()` every process holds a shard of the training set and the whole set of parameters. A product
with the curvature is the sum of the shards' products, one all-reduce; all processes then take the same solver steps on
the same numbers. Each scores its own examples: `values` are right at once, `removal` (1/n of them) when `gather_scores`
has put the shards side by side.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist

from bayes_influence.influence.scores import InfluenceScores


def gather_scores(local: InfluenceScores) -> InfluenceScores:
    """The scores of all shards side by side, in the order of the processes, in every process. Memory t n.

    Args:
        local: This process' scores, of an influence whose curvature is sharded.

    Raises:
        RuntimeError: If `torch.distributed` is not initialised.
    """
    world = dist.get_world_size()
    parts: list[InfluenceScores | None] = [None] * world
    dist.all_gather_object(parts, local)
    whole = [part for part in parts if part is not None]
    norms = [part.gradient_norms for part in whole if part.gradient_norms is not None]
    return replace(
        local,
        values=torch.cat([part.values for part in whole], dim=1),
        train_ids=torch.cat([part.train_ids for part in whole]),
        gradient_norms=torch.cat(norms) if len(norms) == world else None,
    )
