"""captum 0.9: the naive influence function, a dense Hessian and its eigenvectors; Arnoldi's; TracIn."""

from __future__ import annotations

from typing import Any

from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction
from captum.influence._core.influence_function import NaiveInfluenceFunction
from captum.influence._core.tracincp_fast_rand_proj import TracInCPFast
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem


def full_rank(problem: Problem) -> Outcome:
    """`NaiveInfluenceFunction` that keeps every eigenvalue above 0 and computes gradients batch by batch.

    Its Hessian is a sum over the examples, so that it must be given n times the damping, and returns g_t' (n C + n
    delta I)^-1 g_i: the removal effect itself.
    """
    function = NaiveInfluenceFunction(
        **_settings(problem),
        projection_dim=sum(parameter.numel() for parameter in problem.network.parameters() if parameter.requires_grad),
        hessian_reg=len(problem.targets) * problem.shift,
        hessian_inverse_tol=0.0,
    )
    return _scores(problem, function)


def default_rank(problem: Problem) -> Outcome:
    """`NaiveInfluenceFunction` as it comes: 50 eigenvectors, `hessian_reg=1e-3` of a Hessian that is a sum."""
    return _scores(problem, NaiveInfluenceFunction(**_settings(problem)))


def arnoldi(problem: Problem) -> Outcome:
    """`ArnoldiInfluenceFunction` with the damping of the problem, otherwise as it comes."""
    reg = len(problem.targets) * problem.shift
    return _scores(problem, ArnoldiInfluenceFunction(**_settings(problem), hessian_reg=reg))


def tracin(problem: Problem) -> Outcome:
    """`TracInCPFast` with the trained network as its one checkpoint: g_t'g_i in the last layer."""
    settings = {name: value for name, value in _settings(problem).items() if name in SHARED_WITH_TRACIN}
    layer = _layers(problem)[-1]
    return _scores(problem, TracInCPFast(final_fc_layer=layer, checkpoints=[""], **settings))


SHARED_WITH_TRACIN = ("model", "train_dataset", "checkpoints_load_func", "loss_fn", "batch_size")


def _settings(problem: Problem) -> dict[str, Any]:
    return {
        "model": problem.network,
        "train_dataset": TensorDataset(problem.inputs, problem.targets),
        "checkpoint": "",
        "checkpoints_load_func": lambda network, checkpoint: 1.0,
        "layers": _layers(problem),
        "loss_fn": nn.CrossEntropyLoss(reduction="sum"),
        "batch_size": problem.batch_size,
        "sample_wise_grads_per_batch": True,
    }


def _scores(problem: Problem, function: Any) -> Outcome:
    raw = function.influence((problem.test_inputs, problem.test_targets))
    return Outcome(raw, raw)


def _layers(problem: Problem) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in problem.names))
