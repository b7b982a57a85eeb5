"""Plans: what is held against what is measured, what is refused, and when the time is told."""

import logging
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from bayes_influence.curvature import cost
from bayes_influence.curvature.cost import Plan, ProgressLines, TooLargeError, available_bytes, shown_bytes, shown_time
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.solvers.automatic import Auto
from bayes_influence.curvature.solvers.registry import solve
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.held import held_per_example
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.torch_internals import TorchDispatchMode, tree_leaves

CPU = torch.device("cpu")


class Largest(TorchDispatchMode):
    """While active, remembers the largest tensor that an operation makes, in bytes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


def plan(held=10, instead="take fewer"):
    return Plan("a thing", held, instead, passes=3)


@pytest.fixture
def problem():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    data = Dataset(torch.randn(9, 4).double(), torch.arange(9) % 3, torch.arange(9), name="nine")
    return Objective(network, CrossEntropy(), WeightDecay(0.1)), data


def test_a_gpu_has_what_is_free_and_what_the_allocator_keeps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert available_bytes(torch.device("cuda")) == 130


def test_two_hours_are_said_in_hours():
    assert [shown_time(seconds) for seconds in (119, 120, 7199, 7200)] == ["1.2e+02 s", "2 min", "1.2e+02 min", "2 h"]


def test_what_does_not_fit_is_refused_with_the_way_that_does(monkeypatch):
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 1000)
    plan(held=1000).check(CPU)
    with pytest.raises(TooLargeError, match=r"^a thing holds 1\.5 kB, but 1 kB are left on cpu; take fewer$"):
        plan(held=1500).check(CPU)
    monkeypatch.setattr(cost, "available_bytes", lambda device: None)
    plan(held=10**18).check(CPU)


def test_what_is_small_is_there_and_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(cost, "available_bytes", lambda device: 0)
    plan(held=2**20).check(CPU)
    with pytest.raises(TooLargeError, match=r"holds 1\.05 MB, but 0 bytes are left on cpu"):
        plan(held=2**20 + 1).check(CPU)


def test_the_time_is_that_of_the_first_parts_and_told_once(caplog, monkeypatch):
    monkeypatch.setattr(cost, "LONG_SECONDS", 0.0)
    clock = iter([0.0, 5.0, 6.0])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: next(clock))
    with caplog.at_level(logging.INFO, cost.__name__):
        assert list(plan().timed(range(12), 12)) == list(range(12))
    assert caplog.messages == ["a thing: holds 10 bytes, 3 passes over the examples, about 16 s"]


def test_short_work_and_single_parts_are_not_announced(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, cost.__name__):
        assert list(plan().timed([1, 2, 3], 3)) == [1, 2, 3]
        assert list(plan().timed([1], 1)) == [1]
        assert list(plan().timed([], 0)) == []
        plan().announce(cost.LONG_SECONDS / 2)
        monkeypatch.setattr(cost, "LONG_SECONDS", 0.0)
        assert list(plan().timed([1], 1)) == [1]
    assert caplog.messages == []


def test_a_plan_is_within_half_of_what_comes(caplog, monkeypatch):
    monkeypatch.setattr(cost, "LONG_SECONDS", 0.0)
    told = []
    monkeypatch.setattr(Plan, "announce", lambda self, seconds: told.append(seconds))
    began = time.perf_counter()
    for _ in plan().timed(range(20), 20):
        time.sleep(0.02)
    (seconds,) = told
    assert (time.perf_counter() - began) / 1.5 < seconds < 1.5 * (time.perf_counter() - began)


def test_numbers_for_people():
    assert [shown_bytes(n) for n in (999, 1500, 2.5e9, 3e13)] == ["999 bytes", "1.5 kB", "2.5 GB", "30 TB"]
    assert [shown_time(s) for s in (3.0, 119, 600, 9000)] == ["3 s", "1.2e+02 s", "10 min", "2.5 h"]


def test_some_memory_is_left_here():
    left = available_bytes(CPU)
    assert left is None or left > 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits are read on Linux")
def test_the_limit_of_a_process_counts():
    script = (
        "import resource, torch; from bayes_influence.curvature.cost import available_bytes\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)\n"
        "print(available_bytes(torch.device('cpu')))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 2**27 < int(found.stdout) <= 2**28


def test_a_matrix_that_does_not_fit_is_refused_before_its_products(problem, monkeypatch):
    objective, data = problem
    operator = HessianOperator(objective, data)
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(HessianOperator, "_product", None)
    with pytest.raises(TooLargeError, match=r"matrix of HessianOperator of 51 x 51 .* solver='conjugate-gradients'"):
        solve(operator, torch.ones(51).double(), "cholesky")
    head = Objective(nn.Linear(4, 3).double(), CrossEntropy(), WeightDecay(0.1))
    with pytest.raises(TooLargeError, match=r"matrix of LastLayerOperator of 15 x 15"):
        LastLayerOperator(head, data).dense()


def test_a_matrix_from_products_holds_their_intermediate_values_as_well(problem):
    objective, data = problem
    plan = HessianOperator(objective, data, batch_size=4)._dense_plan()
    products = 1.3 * held_per_example(objective, data.batch()) * 4 * 32 * 8
    assert plan.held_bytes == cost.dense_plan("a matrix", 51).held_bytes + round(products)
    assert plan.passes == 51


def test_products_hold_what_is_kept_between_them_whatever_stands_around_the_operator(problem):
    objective, data = problem
    operator = HessianOperator(objective, data, batch_size=4)
    one, two = operator.product_bytes(1), operator.product_bytes(2)
    assert one == round(1.3 * held_per_example(objective, data.batch()) * 4 * 8)
    assert abs(two - 2 * one) <= 1
    operator.kept_bytes = 1000
    assert operator.product_bytes(1) == one + 1000
    assert (operator + 0.1).product_bytes(1) == one + 1000
    assert WhitenedOperator(operator, torch.ones(51).double()).product_bytes(1) == one + 1000
    assert DenseOperator(torch.eye(3)).product_bytes(1) == 0


def test_a_damped_matrix_leaves_that_of_its_base_as_it_was():
    matrix = torch.diag(torch.tensor([1.0, 2.0]))
    base = DenseOperator(matrix)
    assert torch.equal((base + 0.5).dense(), torch.diag(torch.tensor([1.5, 2.5])))
    assert torch.equal(base.dense(), matrix)


def test_ekfac_that_does_not_fit_is_refused(problem, monkeypatch):
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 100)
    with pytest.raises(TooLargeError, match=r"EK-FAC of 2 layers holds 9\.63 kB, .* take smaller batches \(EKFAC"):
        EKFACOperator(*problem)


def test_gradients_and_scores_that_do_not_fit_are_refused(problem, monkeypatch):
    objective, data = problem
    influence = Influence(objective, data, damping=1.0)
    gradients = influence.problem.gradients(data)
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 100)
    with pytest.raises(TooLargeError, match=r"gradients of 9 examples in 51 parameters .*parameters='last-layer'"):
        influence.on_loss(data)
    with pytest.raises(TooLargeError, match=r"scores of 9 x 9 pairs in memory .* to a file \(path=\.\.\.\)"):
        influence._scored(gradients, data, "loss", None)


def test_ways_that_are_named_exist_and_fit(problem):
    objective, data = problem
    for options in ({"solver": "conjugate-gradients"}, {"curvature": "ekfac"}, {"curvature": "ggn"}):
        assert Influence(objective, data, damping=1.0, **options).on_loss(data).values.shape == (9, 9)
    last = Influence(objective, data, damping=1.0, parameters="last-layer")
    assert last.problem.size == 21


def test_small_matrices_of_many_examples_are_left_to_conjugate_gradients(problem, monkeypatch):
    operator = HessianOperator(*problem)
    assert Auto().factors(operator)
    monkeypatch.setattr(cost, "DENSE_WORK", 6 * 9 * 51**2 - 1)
    assert not Auto().factors(operator)
    assert Auto().factors(DenseOperator(torch.eye(51).double()))
    solution = solve(operator + 1.0, torch.ones(51).double(), "auto")
    assert "conjugate gradients: P = 51, many examples" in solution.note


def test_a_last_layer_of_many_outputs_holds_no_matrix_per_example():
    torch.manual_seed(0)
    n, width, classes = 50, 4, 300
    objective = Objective(nn.Linear(width, classes).double(), CrossEntropy(), WeightDecay(0.1))
    data = Dataset(torch.randn(n, width).double(), torch.randint(classes, (n,)), torch.arange(n))
    with Largest() as largest:
        operator = LastLayerOperator(objective, data)
        assert (operator @ torch.ones(operator.size, 1).double()).isfinite().all()
    assert largest.bytes < 8 * n * classes**2 / 50


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_a_factored_matrix_holds_what_its_plan_says():
    script = """
import torch
from torch import nn
import bayes_influence as bi

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

def factor(width):
    network = nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3)).double()
    data = bi.Dataset(torch.randn(8, 5).double(), torch.arange(8) % 3, torch.arange(8))
    objective = bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.1))
    return bi.Influence(objective, data, damping=1.0, solver="cholesky").problem.size

factor(20)
before = peak()
print(factor(240), peak() - before)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    size, held = map(int, found.stdout.split())
    assert held / 1.5 < cost.dense_plan("a matrix", size).held_bytes < 1.5 * held


@pytest.fixture
def told(monkeypatch):
    """A machine whose files say what a test tells them to."""
    texts = {}

    def read_text(path, *arguments, **options):
        if str(path) not in texts:
            raise FileNotFoundError(path)
        return texts[str(path)]

    monkeypatch.setattr(cost.Path, "read_text", read_text)
    return texts


def test_what_machine_container_and_process_have_left(told, monkeypatch):
    """Kilobytes, bytes, and pages of the address space; None where nothing is said, or there is no limit."""
    import resource

    assert (cost._of_machine(), cost._of_container(), cost._of_process()) == (None, None, None)
    told["/proc/meminfo"] = "MemTotal: 9 kB\nMemAvailable:   7 kB\n"
    told["/sys/fs/cgroup/memory.max"], told["/sys/fs/cgroup/memory.current"] = "9000\n", "400\n"
    told["/proc/self/statm"] = "3 2 1"
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100_000, resource.RLIM_INFINITY))
    pages = 3 * resource.getpagesize()
    assert (cost._of_machine(), cost._of_container(), cost._of_process()) == (7 * 1024, 8600, 100_000 - pages)
    assert available_bytes(CPU) == 7 * 1024
    told["/sys/fs/cgroup/memory.max"] = "max"
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert (cost._of_container(), cost._of_process()) == (None, None)
    assert available_bytes(torch.device("meta")) is None


@pytest.fixture
def clock(monkeypatch):
    """The time, as a list that is moved on by hand."""
    now = [0.0]
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    return now


def test_progress_is_told_in_ten_lines_where_no_bar_shows_it(clock, caplog):
    caplog.set_level(logging.INFO, "bayes_influence.curvature.cost")
    lines = ProgressLines("epoch", 200, done=100)
    for done in range(101, 201):
        clock[0] += 3.0
        lines.reached(done, f"objective {done}")
    assert len(caplog.messages) == 5  # the other half was told before
    assert caplog.messages[0] == "epoch 120 of 200: objective 120, about 4 min left"
    assert caplog.messages[-1] == "epoch 200 of 200: objective 200"


def test_quick_work_is_told_at_its_end_only_and_hidden_work_never(clock, caplog):
    caplog.set_level(logging.INFO, "bayes_influence.curvature.cost")
    for hidden in (False, True):
        lines = ProgressLines("cell", 3, hidden=hidden)
        for done in (1, 2, 3):
            clock[0] += 0.5
            lines.reached(done)
    assert caplog.messages == ["cell 3 of 3"]
