"""Two gloo processes with half of the training set each give the scores of one process with all of it."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from bayes_influence.influence.distributed import ShardedOperator
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores

PROCESS = textwrap.dedent(
    """
    import sys
    import torch
    import torch.distributed as dist
    from functools import partial
    from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
    from bayes_influence.curvature.operators.hessian import HessianOperator
    from bayes_influence.curvature.solvers.automatic import solve
    from bayes_influence.influence.distributed import gather_scores, sharded
    from bayes_influence.influence.influence import Influence

    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    objective, train, test = torch.load(f"{folder}/problem.pt", weights_only=False)
    shard = train.select(range(0, 25) if rank == 0 else range(25, 40))
    solver = partial(solve, method="conjugate-gradients", tolerance=1e-12)
    for name, make in (("hessian", HessianOperator), ("ggn", GaussNewtonOperator)):
        influence = Influence(objective, shard, curvature=sharded(make), solver=solver, damping=0.1)
        gather_scores(influence.on_loss(test)).save(f"{folder}/{name}-{rank}.safetensors")
    dist.destroy_process_group()
    """
)


def test_two_processes_agree_with_one(deep, train, test, tmp_path):
    torch.save((deep, train, test), tmp_path / "problem.pt")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS]
    running = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for curvature in ("hessian", "ggn"):
        alone = Influence(deep, train, curvature=curvature, damping=0.1).on_loss(test)
        for rank in range(2):
            scores = InfluenceScores.load(tmp_path / f"{curvature}-{rank}.safetensors")
            torch.testing.assert_close(scores.values, alone.values, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(scores.removal, alone.removal, rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(scores.gradient_norms, alone.gradient_norms)
            assert torch.equal(scores.train_ids, train.ids)


def test_one_process_without_a_group_is_told_so(deep, train):
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group in every process"):
        ShardedOperator(deep, train)
