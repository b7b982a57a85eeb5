"""captum 0.9: the naive influence function, a dense Hessian and all of its eigenvectors."""

from __future__ import annotations

from captum.influence._core.influence_function import NaiveInfluenceFunction
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem


def full_rank(problem: Problem) -> Outcome:
    """`NaiveInfluenceFunction` that keeps every eigenvalue above 0 and computes gradients batch by batch.

    Its Hessian is a sum over the examples, so that it must be given n times the damping, and returns g_t' (n C + n
    delta I)^-1 g_i: the removal effect itself.
    """
    n = len(problem.targets)
    function = NaiveInfluenceFunction(
        problem.network,
        TensorDataset(problem.inputs, problem.targets),
        checkpoint="",
        checkpoints_load_func=lambda network, checkpoint: 1.0,
        layers=_layers(problem),
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=problem.batch_size,
        sample_wise_grads_per_batch=True,
        projection_dim=sum(parameter.numel() for parameter in problem.network.parameters() if parameter.requires_grad),
        hessian_reg=n * problem.shift,
        hessian_inverse_tol=0.0,
    )
    raw = function.influence((problem.test_inputs, problem.test_targets))
    return Outcome(raw, raw)


def _layers(problem: Problem) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in problem.names))
