"""The commands `compare` and `audit` on data of one's own: files of every kind, and what is refused of them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from bayes_influence.cli import app

SMALL = ["--repeats", 1, "--removals", 3, "--epochs", 2, "--refit-epochs", 3, "--jobs", 1]


def _run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One data set in a table, in arrays, as images and as a function."""
    found = tmp_path_factory.mktemp("data")
    x = np.random.default_rng(0).normal(size=(40, 3))
    label = (x[:, 0] > 0).astype(int)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": np.where(label, "town", "village")})
    frame.to_csv(found / "towns.csv", index=False)
    np.savez(found / "towns.npz", inputs=x, targets=label)
    for number, own in enumerate(label[:16]):
        path = found / "images" / str(own) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.random.default_rng(number).random((4, 4)) * 255).astype(np.uint8)).save(path)
    (found / "ownmodule.py").write_text(
        "import torch\nfrom torch import nn\n\nimport bayes_influence as bi\n\n\ndef make():\n"
        "    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))\n"
        "    data = bi.Dataset(x, (x[:, 0] > 0).long(), torch.arange(40), 'made')\n"
        "    return (lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))), nn.CrossEntropyLoss(), data\n"
    )
    return found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("towns.csv", ["--target", "kind", "--width", 3]),
        ("towns.npz", ["--width", 3]),
        ("images", ["--width", 3]),
        ("ownmodule:make", ["--network", "own"]),
    ],
)
def test_data_of_every_kind_are_compared(folder, name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    schemes = "weight-decay,none" if name == "towns.csv" else "weight-decay"
    result = _run("compare", name, *said, *SMALL, "--schemes", schemes, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Truth, weight-decay: the minimum" in " ".join(result.output.split())
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("scheme")
    assert list(summary.index) == schemes.split(",")
    assert summary.loc["weight-decay", "truth"] == "newton"
    assert 0 <= summary.loc["weight-decay", "test_accuracy"] <= 1


def test_a_table_is_audited_on_the_examples_of_its_test_part(folder, tmp_path):
    said = ["--target", "kind", "--width", 3, "--tests", 2]
    result = _run("audit", folder / "towns.csv", *said, *SMALL, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    effects = pd.read_csv(tmp_path / "out" / "effects.csv")
    assert effects["test"].nunique() == 2
    assert "cold" in effects  # retraining from scratch, in minibatches as the networks were trained
    assert not set(effects["test"]) & set(effects["example"])
    assert (tmp_path / "out" / "figure.png").exists()


def test_a_run_on_a_table_of_ones_own_is_audited(folder, tmp_path):
    run = tmp_path / "run"
    trained = _run("train", folder / "towns.csv", "--target", "kind", "--scheme", "weight-decay", "--epochs", 2,
                   "--width", 3, "--out", run)  # fmt: skip
    assert trained.exit_code == 0, trained.output
    said = ["--parameters", "last-layer", "--removals", 3, "--tests", 1, "--damping", 0.01, "--jobs", 1]
    result = _run("audit", run, *said, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert pd.read_csv(tmp_path / "out" / "effects.csv")["test"].unique().size == 1


TABLE = "a,b,kind\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n"


@pytest.mark.parametrize("command", ["compare", "audit"])
@pytest.mark.parametrize(
    ("content", "said", "message"),
    [
        (TABLE, [], "a table needs to know its target"),
        (TABLE, ["--target", "sort"], "there is no column 'sort'; there are a, b, kind"),
        (
            "a,kind\n1,x\n2,x\n3,x\n",
            ["--target", "kind"],
            "the target 'kind' is x in every row",
        ),
        ("a,kind\n1,x\n2,\n3,y\n", ["--target", "kind"], "the target 'kind' is missing in 1 of 3 rows"),
        ("a,kind\n1,x\nsome,y\n3,x\n4,y\n", ["--target", "kind"], "column 'a' mixes numbers and text"),
        (TABLE.replace(",", ";"), ["--target", "kind"], "';' seems to stand between its columns; say --separator ';'"),
        ("a,kind\n1,2\n2,3\n3,4\n", ["--target", "kind"], "whole numbers, which may be classes or amounts"),
        (TABLE, ["--target", "kind", "--network", "nowhere:Net"], "the module nowhere does not import"),
        (TABLE, ["--target", "kind", "--network", "own"], "brings no network of its own; choose one of mlp"),
        (TABLE, ["--target", "kind", "--network", "lenet", "--depth", "2"], "lenet has no depth to choose"),
        (TABLE, ["--target", "kind", "--data-folder", "x"], "--data-folder does not apply here"),
        (TABLE, ["--target", "kind", "--device", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_before_any_work(command, content, said, message, tmp_path):
    path = tmp_path / "towns.csv"
    path.write_text(content)
    result = _run(command, path, *said, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["compare", "audit"])
def test_a_file_in_another_encoding_or_that_is_not_there_is_refused(command, tmp_path):
    path = tmp_path / "towns.csv"
    path.write_bytes(TABLE.replace("x", "\xfc").encode("latin-1"))
    result = _run(command, path, "--target", "kind", "--out", tmp_path / "out")
    assert (result.exit_code, "is not in UTF-8" in result.output) == (2, True)
    missing = _run(command, tmp_path / "absent.csv", "--target", "kind", "--out", tmp_path / "out")
    assert (missing.exit_code, "there is no such file" in " ".join(missing.output.split())) == (2, True)
    unknown = _run(command, "ownmodule_absent:make", "--out", tmp_path / "out")
    assert (unknown.exit_code, "does not import" in unknown.output) == (2, True)
