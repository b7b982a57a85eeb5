"""pyDVL 0.10: conjugate gradients on blocks of right-hand sides, or a dense solve."""

from __future__ import annotations

import torch
from pydvl.influence.torch import CgInfluence, DirectInfluence
from pydvl.influence.torch.util import SecondOrderMode
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem

MODES = {"hessian": SecondOrderMode.HESSIAN, "empirical-fisher": SecondOrderMode.GAUSS_NEWTON}
"""What pyDVL calls Gauss-Newton is the empirical Fisher (1/n) sum_i g_i g_i', divided by the number of right-hand sides
and, with several batches, not even their mean; it has no Gauss-Newton matrix."""


def block_conjugate_gradients(problem: Problem) -> Outcome:
    """`CgInfluence` with all right-hand sides at once.

    It stops where ||r|| <= max(rtol^2 ||v||, atol^2): it must be given the square root of a relative residual.
    """
    model = CgInfluence(
        problem.network,
        cross_entropy,
        regularization=problem.shift,
        rtol=problem.residual**0.5,
        atol=0.0,
        solve_simultaneously=True,
        second_order_mode=MODES[problem.curvature],
    )
    return _scores(model, problem)


def direct(problem: Problem) -> Outcome:
    """`DirectInfluence`: the dense Hessian and `torch.linalg.solve`."""
    return _scores(DirectInfluence(problem.network, cross_entropy, regularization=problem.shift), problem)


def _scores(model: CgInfluence | DirectInfluence, problem: Problem) -> Outcome:
    loader = DataLoader(TensorDataset(problem.inputs, problem.targets), batch_size=problem.batch_size)
    model = model.fit(loader)
    solved = model.influence_factors(problem.test_inputs, problem.test_targets)
    raw = torch.cat([model.influences_from_factors(solved, *batch) for batch in loader], dim=1)
    return Outcome(raw, raw / len(problem.targets), solved)
