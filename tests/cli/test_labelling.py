import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bayes_influence.cli.commands import app
from bayes_influence.experiments.attribution.labels.page import data_id

QUICK = ("--folds", "2", "--seeds", "0", "--epochs", "40", "--learning-rate", "0.05", "--listed", "4")


def run(*arguments, command="find-mislabelled"):
    return CliRunner().invoke(app, [command, *map(str, arguments)])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    random = np.random.default_rng(2)
    labels = np.arange(60) % 2
    points = random.normal(size=(60, 2)) + 6.0 * labels[:, None]
    labels[[11, 30]] = 1 - labels[[11, 30]]
    path = tmp_path_factory.mktemp("data") / "points.csv"
    words = np.array(["[bold]no", "yes"])[labels]
    pd.DataFrame({"a": points[:, 0], "b": points[:, 1], "label": words}).to_csv(path, index=False)
    return path


def test_the_command_prints_and_stores_what_it_found(table, tmp_path):
    done = run(table, "--target", "label", *QUICK, "--out", tmp_path / "found")
    assert done.exit_code == 0, done.output
    assert "2 of 60 labels are flagged" in done.output
    assert "[bold]no" in done.output
    ranked = pd.read_csv(tmp_path / "found" / "labels.csv")
    assert ranked["row"].head(2).tolist() == [11, 30]
    assert (tmp_path / "found" / "labels.html").is_file()
    marks = tmp_path / "marks.csv"
    identity = data_id(ranked["row"].tolist(), ranked["label"].tolist())
    marks.write_text(f"data,row,label,mark,new_label\n{identity},11,{ranked['label'].iloc[0]},drop,yes\n")
    done = run(marks, "--run", tmp_path / "found", command="apply")
    assert done.exit_code == 0, done.output
    assert "0 relabelled, 1 dropped, 0 confirmed." in done.output
    assert len(pd.read_csv(tmp_path / "found-cleaned" / "cleaned.csv")) == 59
    refused = run(table, command="apply")
    assert refused.exit_code == 2
    assert "is no file of marks" in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "price"), "there is no column 'price'; there are a, b, label"),
        ((), "a table needs to know its target"),
        (("--target", "a"), "but real numbers are predicted here"),
        (("--target", "label", "--level", "2"), "lies between 0 and 1, got 2.0"),
        (("--target", "label", "--scheme", "magic"), "unknown scheme 'magic'"),
        (("--target", "label", "--seeds", "x"), "seeds must be whole numbers"),
    ],
)
def test_what_cannot_be_searched_is_said_without_a_traceback(table, tmp_path, arguments, message):
    done = run(table, *arguments, "--out", tmp_path / "none")
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_a_file_that_is_not_in_utf8_is_refused(tmp_path):
    path = tmp_path / "old.csv"
    path.write_bytes("a,label\n1,M\xfcnchen\n2,K\xf6ln\n".encode("latin-1"))
    done = run(path, "--target", "label")
    assert done.exit_code == 2
    assert "is not in UTF-8 (byte 0xfc); save it in UTF-8" in " ".join(done.output.split())


def test_whole_numbers_of_many_values_are_refused_until_it_is_said_that_they_are_classes(tmp_path):
    frame = pd.DataFrame({"a": np.arange(60) / 7, "grade": np.arange(60) % 12})
    frame.to_csv(tmp_path / "grades.csv", index=False)
    done = run(tmp_path / "grades.csv", "--target", "grade")
    assert done.exit_code == 2
    assert "holds 12 different whole numbers, which may be classes or amounts" in " ".join(done.output.split())


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "photos" / label / f"{number}.png").write_bytes(b"no image")
    done = run(tmp_path / "photos")
    assert done.exit_code == 2
    assert "0.png is no image that Pillow reads" in "".join(done.output.split("\n"))


def test_a_page_of_hostile_names_is_written_with_them_escaped(tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(30) % 2
    frame = pd.DataFrame({"=cmd()": random.normal(size=30) + 5.0 * labels})
    frame["label"] = np.array(["<img src=x onerror=alert(1)>", "@yes"])[labels]
    frame.to_csv(tmp_path / "evil.csv", index=False)
    done = run(tmp_path / "evil.csv", "--target", "label", *QUICK, "--out", tmp_path / "found")
    assert done.exit_code == 0, done.output
    assert "<img" not in (tmp_path / "found" / "labels.html").read_text()
