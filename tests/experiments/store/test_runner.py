import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import cpu_count, wrap_non_picklable_objects

from bayes_influence.curvature import cost
from bayes_influence.curvature.cost import Plan
from bayes_influence.data.locks import BusyError
from bayes_influence.experiments.store import runner
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import FailedCellsError, RunReport, run_cells, workers
from bayes_influence.training.threads import torch_threads

CELLS = {f"seed={seed}": seed for seed in range(6)}


def by_value():
    """Functions that reach the workers by value: they cannot import this module by its name."""

    def draw(seed):
        values = torch.randn(3, dtype=torch.float64)  # from the global generator: the runner must have seeded it
        frame = pd.DataFrame({"seed": [seed], "value": [float(np.random.default_rng(seed).normal())]})
        return CellResult({"results": frame}, {"values": values})

    def fail_on_odd(seed):
        if seed % 2:
            raise ZeroDivisionError(f"seed {seed} is odd")
        return draw(seed)

    def warn_of(seed):
        import logging
        import warnings

        logging.getLogger("bayes_influence.data").warning("the same of every cell")
        warnings.warn(f"seed {seed} alone", UserWarning, stacklevel=1)
        return draw(seed)

    def threads_seen(seed):
        return CellResult({}, {"threads": np.array(torch.get_num_threads())})

    return draw, fail_on_odd, warn_of, threads_seen


draw, fail_on_odd, warn_of, threads_seen = by_value()


def count(path, seed):
    with path.open("a") as stream:
        stream.write(f"{seed}\n")
    return draw(seed)


def folder_at(path):
    return StudyFolder(path, {"study": "runner"})


def run(path, cells=CELLS, compute=draw, n_jobs=1):
    folder = folder_at(path)
    report = run_cells(cells, compute, folder, n_jobs=n_jobs, progress=False)
    return folder, report


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder.path / "cells").iterdir()}


def test_every_cell_is_stored(tmp_path):
    folder, report = run(tmp_path)
    assert report == RunReport(computed=tuple(CELLS), skipped=())
    assert folder.table("results", CELLS)["seed"].tolist() == list(range(6))


def test_the_order_and_the_number_of_jobs_change_nothing(tmp_path):
    reference = contents(run(tmp_path / "serial")[0])
    backwards = {key: CELLS[key] for key in reversed(CELLS)}
    assert contents(run(tmp_path / "backwards", backwards)[0]) == reference
    assert contents(run(tmp_path / "parallel", n_jobs=2)[0]) == reference
    assert len(reference) == len(CELLS)


def test_the_callers_generator_is_left_alone(tmp_path):
    torch.manual_seed(0)
    expected = torch.randn(2)
    torch.manual_seed(0)
    run(tmp_path)
    assert torch.equal(torch.randn(2), expected)


def test_finished_cells_are_not_computed_again(tmp_path):
    log = tmp_path / "log"
    some = {key: CELLS[key] for key in list(CELLS)[:2]}
    run(tmp_path / "study", some, partial(count, log))
    _, report = run(tmp_path / "study", CELLS, partial(count, log))
    assert report == RunReport(computed=tuple(CELLS)[2:], skipped=tuple(some))
    assert log.read_text().split() == [str(seed) for seed in range(6)]


def test_a_truncated_cell_is_computed_again(tmp_path):
    reference = contents(run(tmp_path)[0])
    path = tmp_path / "cells" / "seed=3.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    folder, report = run(tmp_path)
    assert report.computed == ("seed=3",)
    assert contents(folder)["seed=3.safetensors"] == reference["seed=3.safetensors"]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_failing_cells_are_named_after_the_others_are_stored(tmp_path, n_jobs):
    with pytest.raises(FailedCellsError, match="3 of 6 cells failed, the others are stored") as error:
        run(tmp_path, compute=fail_on_odd, n_jobs=n_jobs)
    assert "seed=1: ZeroDivisionError: seed 1 is odd" in str(error.value)
    assert list(error.value.failures) == ["seed=1", "seed=3", "seed=5"]
    assert folder_at(tmp_path).keys() == ["seed=0", "seed=2", "seed=4"]


def test_what_cells_warn_of_in_other_processes_is_said_here_once(tmp_path, caplog, capfd):
    run(tmp_path, {key: CELLS[key] for key in list(CELLS)[:3]}, warn_of, n_jobs=2)
    assert sorted(caplog.messages) == ["seed 0 alone", "seed 1 alone", "seed 2 alone", "the same of every cell"]
    assert "alone" not in capfd.readouterr().err


def test_a_backend_changes_nothing(tmp_path):
    reference = contents(run(tmp_path / "serial")[0])
    with workers("loky"):
        assert contents(run(tmp_path / "loky", n_jobs=2)[0]) == reference
    with workers(None):
        assert contents(run(tmp_path / "none", n_jobs=2)[0]) == reference


def test_a_backend_that_hands_over_lists_has_stored_a_turn_before_the_next(tmp_path):
    """With two jobs the fourth cell is computed when the first two are there."""
    reference = contents(run(tmp_path / "serial")[0])
    cells = tmp_path / "turns" / "cells"

    def look(seed):
        found = draw(seed)
        there = sorted(path.name for path in cells.glob("*.safetensors"))
        return CellResult(found.tables, {**found.arrays, "there": np.array(len(there))})

    with workers("multiprocessing"):
        assert contents(run(tmp_path / "same", compute=wrap_non_picklable_objects(draw), n_jobs=2)[0]) == reference
        folder, _ = run(tmp_path / "turns", compute=wrap_non_picklable_objects(look), n_jobs=2)
    assert [int(folder.load_cell(f"seed={seed}").arrays["there"]) for seed in range(6)] == [0, 0, 2, 2, 4, 4]


@pytest.mark.slow
def test_a_killed_dask_worker_loses_nothing(tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed, which is no requirement")
    reference = contents(run(tmp_path / "serial")[0])

    def slow_draw(seed):
        time.sleep(0.5)
        return draw(seed)

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        workers("dask"),
    ):
        victim = next(iter(client.run(os.getpid).values()))
        timer = threading.Timer(0.7, os.kill, (victim, signal.SIGKILL))
        timer.start()
        found = contents(run(tmp_path / "dask", compute=slow_draw, n_jobs=2)[0])
        timer.join()
    assert found == reference


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("lokki", "unknown backend 'lokki'; known: loky, multiprocessing, threading, dask, ray"),
        ("dask", "the backend dask is not ready: .*; install it, and start its cluster"),
        ("ray", "the backend ray is not ready: .*ray.*; install it, and start its cluster"),
    ],
)
def test_a_backend_that_is_not_ready_is_refused(backend, message, monkeypatch):
    for package in ("dask", "distributed", "ray"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=message), workers(backend):
        pass


def test_what_failed_is_recorded_in_the_folder_until_it_succeeds(tmp_path):
    with pytest.raises(FailedCellsError, match="3 of 6 cells failed, the others are stored"):
        run(tmp_path, compute=fail_on_odd, n_jobs=1)
    recorded = pd.read_csv(tmp_path / "failures.csv")
    assert recorded["cell"].tolist() == ["seed=1", "seed=3", "seed=5"]
    assert recorded["error"].str.contains("Traceback").all()
    run(tmp_path, n_jobs=1)
    assert not (tmp_path / "failures.csv").exists()


def test_a_result_that_cannot_be_stored_is_its_cells_failure(tmp_path):
    def broken(seed):
        return CellResult({"results": pd.DataFrame({"x": [object()]})}) if seed == 0 else draw(seed)

    with pytest.raises(FailedCellsError, match=r"1 of 6 cells failed.*mixes strings with object"):
        run(tmp_path, compute=broken)
    assert len(folder_at(tmp_path).keys()) == 5


def test_compute_must_return_a_result(tmp_path):
    with pytest.raises(FailedCellsError, match="must return a CellResult, got int"):
        run(tmp_path, compute=abs)


def test_a_bad_key_is_refused_before_any_work(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ValueError, match="becomes a file name"):
        run(tmp_path / "study", {"seed=0": 0, "seed/1": 1}, partial(count, log))
    assert not log.exists()


def test_several_jobs_share_the_cores_and_the_callers_threads_come_back(tmp_path):
    with torch_threads(3):
        serial, _ = run(tmp_path / "serial", compute=threads_seen)
        parallel, _ = run(tmp_path / "parallel", compute=threads_seen, n_jobs=2)
        assert torch.get_num_threads() == 3
    assert serial.load_cell("seed=0").arrays["threads"] == 3
    assert parallel.load_cell("seed=0").arrays["threads"] == max(1, cpu_count() // 2)


STUDY = """
    import sys, time
    import numpy as np
    from bayes_influence.experiments.store.cells import CellResult
    from bayes_influence.experiments.store.runner import run_cells
    from bayes_influence.experiments.store.folder import StudyFolder

    def slow(seed):
        time.sleep(0.3 if seed < 2 else 30)
        return CellResult({}, {"seed": np.array(seed)})

    folder = StudyFolder(sys.argv[1], {"study": "killed"})
    try:
        run_cells({f"seed={seed}": seed for seed in range(6)}, slow, folder, n_jobs=int(sys.argv[2]), progress=False)
    except KeyboardInterrupt as interrupt:
        sys.exit(f"message: {interrupt}")
"""


def resumed(seed):
    return CellResult({}, {"seed": np.array(-seed)})


def test_a_study_that_another_process_is_at_is_refused(tmp_path):
    process = start_study(tmp_path, 1)
    try:
        with pytest.raises(BusyError, match="another process is writing the study folder"):
            resume(tmp_path)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
        process.stderr.close()
    resume(tmp_path)


def start_study(tmp_path, n_jobs):
    """Starts the study in a process group of its own, and waits until the two quick cells are stored."""
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(STUDY))
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "study"), str(n_jobs)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Jobs in the background inherit that interrupts are ignored, and these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    cells = tmp_path / "study" / "cells"
    deadline = time.monotonic() + 60
    while len(list(cells.glob("*.safetensors"))) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def resume(tmp_path):
    folder = StudyFolder(tmp_path / "study", {"study": "killed"})
    report = run_cells({f"seed={seed}": seed for seed in range(6)}, resumed, folder, progress=False)
    assert report.skipped == ("seed=0", "seed=1")
    stored = [int(folder.load_cell(f"seed={seed}").arrays["seed"]) for seed in range(6)]
    assert stored == [0, 1, -2, -3, -4, -5]


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_study_goes_on_where_it_stood(tmp_path, n_jobs):
    process = start_study(tmp_path, n_jobs)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stderr.close()
    resume(tmp_path)


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_study_says_what_is_stored_and_goes_on(tmp_path, n_jobs):
    process = start_study(tmp_path, n_jobs)
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"message: interrupted: 2 of 6 cells are stored in {Path(tmp_path / 'study')}; run the same" in messages
    resume(tmp_path)


@pytest.mark.parametrize(
    ("planned", "said"),
    [(True, "six draws: holds 2 kB, about 15 s"), (False, "6 cells, 1 at a time, about 15 s")],
)
def test_the_work_is_told_when_the_first_cell_is_done_with_every_turn_s_time(
    planned, said, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(cost, "LONG_SECONDS", 0.0)
    clock = iter([10.0, 12.5, 20.0])
    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    plan = Plan("six draws", 2000, "draw fewer") if planned else None
    with caplog.at_level("INFO", cost.__name__):
        run_cells(CELLS, draw, StudyFolder(tmp_path, {}), n_jobs=1, progress=False, plan=plan)
    assert caplog.messages == [said]
    caplog.clear()
    again = run_cells(CELLS, draw, StudyFolder(tmp_path, {}), n_jobs=1, progress=False, plan=plan)
    assert (again.computed, caplog.messages) == ((), [])
