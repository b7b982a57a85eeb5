import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from bayes_influence.curvature.operators.ekfac import EKFAC
from bayes_influence.curvature.operators.gauss_newton import GaussNewton
from bayes_influence.curvature.operators.hessian import Hessian
from bayes_influence.curvature.operators.sharded import Sharded, ShardedOperator, total_examples


@pytest.fixture
def in_two_processes(monkeypatch):
    """Calls a function of the rank in two threads, whose all-reduces add what both bring.

    In between, one of them runs at a time: torch's forward mode counts its levels for all threads together.
    """
    barrier, brought, ranks, baton = threading.Barrier(2, timeout=60), {}, threading.local(), threading.Lock()

    def wait():
        baton.release()
        barrier.wait()
        baton.acquire()

    def all_reduce(tensor):
        brought[ranks.own] = tensor.clone()
        wait()
        tensor.copy_(brought[0] + brought[1])
        wait()

    def run(work):
        def with_rank(rank):
            ranks.own = rank
            with baton:
                return work(rank)

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(with_rank, range(2)))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    return run


@pytest.fixture
def shards(classification):
    return classification.select(range(15)), classification.select(range(15, 24))


@pytest.fixture
def objectives(make_objective):
    return [make_objective(decay=0.7) for _ in range(2)]


@pytest.mark.parametrize(("kind", "reference"), [(Hessian(), "hessian_of"), (GaussNewton(), "gauss_newton_of")])
def test_the_shards_curvature_is_that_of_all_examples(
    objectives, classification, shards, in_two_processes, kind, reference, request
):
    expected = request.getfixturevalue(reference)(objectives[0], classification.batch())
    operators = in_two_processes(lambda rank: Sharded(kind).operator(objectives[rank], shards[rank], 4))
    for found in in_two_processes(lambda rank: operators[rank].dense()):
        torch.testing.assert_close(found, expected)


def test_automatic_damping_asks_for_the_gauss_newton_matrix_of_all_examples(
    objectives, classification, shards, in_two_processes, gauss_newton_of
):
    def of_rank(rank):
        operator = Sharded().operator(objectives[rank], shards[rank])
        return Sharded().gauss_newton(objectives[rank], shards[rank], operator).dense()

    expected = gauss_newton_of(objectives[0], classification.batch())
    for found in in_two_processes(of_rank):
        torch.testing.assert_close(found, expected)


def test_examples_are_counted_in_all_processes(shards, in_two_processes):
    assert in_two_processes(lambda rank: (total_examples(shards[rank]), Sharded().examples(shards[rank]))) == [
        (24, 24),
        (24, 24),
    ]


def test_one_process_without_a_group_is_told_so(make_objective, classification):
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group in every process"):
        ShardedOperator(make_objective(), classification, Hessian())


def test_a_kind_that_is_no_mean_over_the_examples_is_refused():
    with pytest.raises(ValueError, match="the mean of the shards' curvatures, which 'ekfac' is not"):
        Sharded(EKFAC())
    assert Sharded(GaussNewton()).name == "sharded ggn"
