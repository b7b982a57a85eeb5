"""Two gloo processes with half of the training set each give the scores of one process with all of it."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores

PROCESS = textwrap.dedent(
    """
    import sys
    import torch
    import torch.distributed as dist
    from bayes_influence.curvature.operators.gauss_newton import GaussNewton
    from bayes_influence.curvature.operators.hessian import Hessian
    from bayes_influence.curvature.operators.sharded import Sharded
    from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
    from bayes_influence.influence.distributed import gather_scores
    from bayes_influence.influence.influence import Influence

    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    objective, train, test = torch.load(f"{folder}/problem.pt", weights_only=False)
    shard = train.select(range(0, 25) if rank == 0 else range(25, 40))
    solver = ConjugateGradients(tolerance=1e-12)
    for name, kind in (("hessian", Hessian()), ("ggn", GaussNewton())):
        influence = Influence(objective, shard, curvature=Sharded(kind), solver=solver, damping=0.1)
        gather_scores(influence.on_loss(test)).save(f"{folder}/{name}-{rank}.safetensors")
        automatic = Influence(objective, shard, curvature=Sharded(kind))
        gather_scores(automatic.on_loss(test)).save(f"{folder}/automatic-{name}-{rank}.safetensors")
    try:
        automatic.of_group(shard.ids[:2], order=1)
    except ValueError as refusal:
        message = str(refusal)
    rows = {"parameters": automatic.on_parameters(shard.ids[:2]), "delta": automatic.damping.delta, "message": message}
    torch.save(rows, f"{folder}/rows-{rank}.pt")
    dist.destroy_process_group()
    """
)


@pytest.fixture(name="two_processes", scope="module")
def results_of_two_processes(deep, train, test, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    torch.save((deep, train, test), folder / "problem.pt")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS]
    running = [
        subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE, text=True, env=environment)
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return folder


def test_two_processes_agree_with_one(deep, train, test, two_processes):
    for curvature in ("hessian", "ggn"):
        alone = Influence(deep, train, curvature=curvature, damping=0.1).on_loss(test)
        for rank in range(2):
            scores = InfluenceScores.load(two_processes / f"{curvature}-{rank}.safetensors")
            torch.testing.assert_close(scores.values, alone.values, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(scores.removal, alone.removal, rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(scores.gradient_norms, alone.gradient_norms)
            assert torch.equal(scores.train_ids, train.ids)


def test_automatic_damping_looks_at_all_processes(deep, train, test, two_processes):
    for curvature in ("hessian", "ggn"):
        alone = Influence(deep, train, curvature=curvature).on_loss(test)
        for rank in range(2):
            scores = InfluenceScores.load(two_processes / f"automatic-{curvature}-{rank}.safetensors")
            torch.testing.assert_close(scores.values, alone.values, rtol=1e-9, atol=1e-10)


def test_changes_of_parameters_divide_by_the_whole_training_set(deep, train, two_processes):
    alone = Influence(deep, train, curvature="ggn")
    for rank, start in enumerate((0, 25)):
        rows = torch.load(two_processes / f"rows-{rank}.pt")
        assert rows["delta"] == pytest.approx(alone.damping.delta, rel=1e-12)
        expected = alone.on_parameters(train.ids[start : start + 2])
        torch.testing.assert_close(rows["parameters"], expected, rtol=1e-9, atol=1e-12)


def test_groups_want_the_whole_training_set(two_processes):
    message = torch.load(two_processes / "rows-1.pt")["message"]
    assert "needs all 40 training examples in one process, this one holds 15" in message
