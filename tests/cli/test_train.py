import json
from importlib.metadata import version

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from bayes_influence.cli import app
from bayes_influence.data.encoding import Encoding
from bayes_influence.experiments.training.run import load_run

SMALL = ["--epochs", "3", "--width", "5", "--batch-size", "32", "--learning-rate", "0.02"]


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_train_prints_the_report_and_leaves_a_run_that_loads(tmp_path):
    result = _run(
        "train", "iris", *SMALL, "--scheme", "bnn", "--seeds", "1,2", "--prior", "isotropic", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    header = next(line for line in result.output.splitlines() if "accuracy" in line)
    assert header.split()[0] == "seed"
    assert header.split()[-1] == "epoch_seconds"
    assert "outside" not in result.output
    assert "neglect" not in header  # a sentence that was logged, and stands in the file
    assert pd.read_csv(tmp_path / "report.csv")["neglect"].str.startswith("propagated variances are").all()
    assert pd.read_csv(tmp_path / "report.csv")["seed"].tolist() == [1, 2]
    objective, split, config = load_run(tmp_path, index=1)
    assert (config["scheme_options"]["prior"], config["seeds"], config["network"]) == ("isotropic", [1, 2], "mlp")
    assert len(split.train) + len(split.test) == 150
    assert "0.weight_rho" in objective.params


def test_a_table_of_ones_own_is_trained_on_and_its_encoding_stored(tmp_path):
    rows = pd.DataFrame({"x": range(40), "town": ["a", "b", "b", "a"] * 10, "y": ["n", "p"] * 20})
    rows.to_csv(tmp_path / "towns.csv", index=False, sep=";")
    told = ["train", tmp_path / "towns.csv", "--target", "y", "--separator", ";"]
    result = _run(*told, *SMALL, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    stored = Encoding.from_config(json.loads((tmp_path / "run" / "encoding.json").read_bytes()))
    assert stored.feature_names == ("x", "town=a", "town=b")
    assert stored.class_names == load_run(tmp_path / "run")[1].test.class_names == ("n", "p")
    rows.iloc[::-1].to_csv(tmp_path / "towns.csv", index=False, sep=";")
    changed = _run("influence", tmp_path / "run", "--test", "0")
    assert changed.exit_code == 2
    assert "towns.csv changed: its SHA-256 starts with" in changed.output


def test_the_version_is_printed():
    assert version("bayes-influence") in _run("--version").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.csv", "--target", "y"], "nowhere.csv: there is no such file"),
        (["train", "nowhere.csv"], "a table needs to know its target"),
        (["train", "iris", "--target", "y"], "target is said of tables in a file, and iris is none"),
        (["train", "nowhere_at_all:make"], "the module nowhere_at_all does not import"),
        (["train", "irsi"], "unknown dataset 'irsi'; known: iris"),
        (["train", "iris", "--scheme", "bn"], "unknown scheme bn; known: none"),
        (["train", "iris", "--network", "lenet"], "lenet takes images (channels, height, width)"),
        (["train", "iris", "--data-folder", "."], "--data-folder does not apply here: iris comes with scikit-learn"),
        (["train", "iris", "--scheme", "none", "--predictions", "sampled"], "--predictions does not apply here: none"),
        (
            ["train", "iris", "--scheme", "none", "--weight-decay", "0.1"],
            "none: no option weight_decay to choose; schem",
        ),
        (
            ["train", "iris", "--scheme", "swa", "--prior", "fan-in"],
            "swa: no option prior to choose; schemes that have",
        ),
        (["train", "iris", "--likelihood", "probit"], "unknown likelihood 'probit'; known: tilted, sobol"),
        (["train", "mnist", "--network", "lenet", "--depth", "2"], "lenet has no depth to choose; leave depth out"),
        (["train", "iris", "--seeds", "0,x"], "seeds must be whole numbers separated by commas, got '0,x'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path):
    result = _run(*arguments, "--out", tmp_path)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to train on")
def test_a_command_that_failed_is_not_in_the_way_of_the_corrected_one(tmp_path):
    failed = _run("train", "iris", *SMALL, "--device", "cuda", "--out", tmp_path)
    assert failed.exit_code != 0
    corrected = _run("train", "iris", *SMALL, "--device", "cpu", "--out", tmp_path)
    assert corrected.exit_code == 0, corrected.output
    assert load_run(tmp_path)[2]["device"] == "cpu"
    refused = _run("train", "iris", *SMALL, "--device", "cpu", "--width", "6", "--out", tmp_path)
    assert "width is 5 there and 6 here" in " ".join(refused.output.split())
