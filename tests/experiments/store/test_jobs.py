import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from joblib import parallel_config, register_parallel_backend
from joblib.parallel import BACKENDS, ThreadingBackend

from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import jobs_at_once, run_cells, workers


class SevenCores(ThreadingBackend):
    """Threads, on what says that it has seven cores."""

    def effective_n_jobs(self, n_jobs):
        return 7 if n_jobs == -1 else super().effective_n_jobs(n_jobs)


@pytest.fixture
def seven_cores(monkeypatch):
    monkeypatch.setitem(BACKENDS, "seven", SevenCores)
    return "seven"


def test_where_nobody_says_how_many_jobs_every_core_has_one(seven_cores):
    with parallel_config(backend=seven_cores):
        assert [jobs_at_once(cells) for cells in (9, 3, 0)] == [7, 3, 1]
        assert jobs_at_once(3, 5) == 5
    with parallel_config(backend=seven_cores, n_jobs=2):
        assert (jobs_at_once(9), jobs_at_once(9, 4)) == (2, 4)


def test_a_cluster_has_as_many_jobs_as_it_says(monkeypatch):
    monkeypatch.setitem(BACKENDS, "ray", None)
    register = SimpleNamespace(register_ray=lambda: register_parallel_backend("ray", SevenCores))
    monkeypatch.setitem(sys.modules, "ray.util.joblib", register)
    with workers("ray"):
        assert (jobs_at_once(9), jobs_at_once(3), jobs_at_once(3, 2)) == (7, 7, 2)


def test_cells_run_at_once_where_nobody_says_how_many(tmp_path, seven_cores):
    """Two cells that wait for each other."""
    both = threading.Barrier(2, timeout=20)

    def meet(seed):
        both.wait()
        return CellResult({}, {"seed": np.array(seed)})

    with parallel_config(backend=seven_cores):
        folder = StudyFolder(tmp_path, {"study": "jobs"})
        run_cells({"seed=0": 0, "seed=1": 1}, meet, folder, progress=False)
    assert folder.keys() == ["seed=0", "seed=1"]
