import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from bayes_influence.cli import app

SMALL = ["--repeats", "1", "--removals", "4", "--epochs", "60", "--refit-epochs", "10", "--test-example", "83"]


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_compare_prints_the_table_and_says_where_the_rest_is(tmp_path):
    out = tmp_path / "out"
    result = _run("compare", "iris", *SMALL, "--schemes", "weight-decay,none", "--out", out, "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert "weight-decay" in result.output
    assert "Test example 83" in result.output
    assert pd.read_csv(out / "summary.csv")["scheme"].tolist() == ["weight-decay", "none"]


def test_numbers_of_schemes_reach_those_that_have_them(tmp_path):
    options = ["--schemes", "weight-decay,none", "--weight-decay", "0.02", "--jobs", 1]
    result = _run("compare", "iris", *SMALL, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("scheme")
    assert summary.loc["weight-decay", "hessian_min"] == pytest.approx(0.02, rel=1e-6)
    assert abs(summary.loc["none", "hessian_min"]) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "iris", "--schemes", "none,swa", "--weight-decay", "1"], "none, swa: no option weight_decay to"),
        (
            ["compare", "iris", "--weight-decay", "-1"],
            "weight_decay of the scheme weight-decay must be positive, got -1",
        ),
        (["compare", "irsi"], "unknown dataset 'irsi'; known: iris, wine, breast-cancer, digits"),
        (["compare", "iris", "--schemes", "nonne"], "unknown scheme nonne; known: none, weight-decay"),
        (["compare", "iris", "--activation", "relo"], "unknown activation 'relo'"),
        (["compare", "iris", "--removals", "400"], "removals must lie in 3..149"),
        (["compare", "iris", "--test-example", "151"], "no example has id [151]"),
        (["compare", "iris", "--epochs", "0"], "epochs must be at least 1, got 0"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(arguments, message):
    result = _run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_folder_of_another_study_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result = _run("compare", "iris", *SMALL, "--out", tmp_path)
    assert result.exit_code == 2
    assert "is not a study's folder" in " ".join(result.stderr.split())


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    result = _run("compare", "iris", *SMALL, "--out", tmp_path / "file" / "out")
    assert result.exit_code == 2
    assert "cannot be written" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    """The first cell is stored, then the run is interrupted while the second one trains."""
    command = [sys.executable, "-m", "bayes_influence", "compare", "iris", "--test-example", "83", "--jobs", "1"]
    command += ["--repeats", "1", "--removals", "3", "--epochs", "5000", "--refit-epochs", "10"]
    command += ["--schemes", "weight-decay,bnn", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # Jobs in the background inherit that interrupts are ignored, and this test may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        stored = tmp_path / "out" / "cells"
        deadline = time.monotonic() + 240
        while not list(stored.glob("*.safetensors")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no cell was stored in time"
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted: 1 of 2 cells are stored" in " ".join(told.split())
    assert len(list(stored.glob("*.safetensors"))) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_told_in_a_sentence():
    command = [sys.executable, "-m", "bayes_influence", "--help"]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "error: cannot print (No space left on device); what was computed is in its folder\n"
