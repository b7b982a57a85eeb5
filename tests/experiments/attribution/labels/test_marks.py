import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bayes_influence.data.appearance import every_class_name
from bayes_influence.data.own_images import OwnImages
from bayes_influence.experiments.attribution.labels.cleaned import _write_images, write_cleaned
from bayes_influence.experiments.attribution.labels.evidence import with_targets
from bayes_influence.experiments.attribution.labels.marks import (
    apply_marks,
    read_marks,
    run_of_marks,
)
from bayes_influence.experiments.attribution.labels.of_data import find_in_data
from bayes_influence.experiments.attribution.labels.page import data_id
from bayes_influence.experiments.attribution.labels.settings import LabelData, LabelSettings
from bayes_influence.experiments.store.folder import StudyFolder

QUICK = LabelSettings(folds=2, seeds=(0,), listed=5, evidence=1)


@pytest.fixture(scope="module")
def searched(towns, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    towns.to_csv(folder / "towns.csv", index=False)
    data = LabelData(str(folder / "towns.csv"), target=("label",), epochs=40, learning_rate=0.05, width=8)
    return find_in_data(data, folder / "runs" / "labels-towns", QUICK, progress=False)


def unsearched(folder, data, settings=QUICK):
    """The folder of a search that never ran: marks need its configuration alone."""
    return StudyFolder(folder, {"study": "labels", **data.to_config(), "settings": settings.to_config()}).path


def written(folder, searched, marks, **changes):
    """A file of marks, (row, mark, new label) each."""
    return written_of(folder, searched.issues.ranked.set_index("row")["label"], marks, **changes)


def written_of(folder, labels, marks, **changes):
    """Likewise, of data with these labels."""
    identity = data_id(labels.index.tolist(), labels.tolist())
    frame = pd.DataFrame(marks, columns=["row", "mark", "new_label"]).assign(data=identity)
    frame = frame.assign(label=frame["row"].map(labels).fillna("x")).assign(**changes)
    frame.to_csv(folder / "marks.csv", index=False)
    return folder / "marks.csv"


def test_marks_clean_the_table_and_leave_everything_else(searched, towns, tmp_path):
    path = written(tmp_path, searched, [(5, "relabel", '\'=HYPERLINK("x")'), (30, "drop", "north"), (2, "keep", "x")])
    done = apply_marks(read_marks(path), searched.folder, tmp_path / "cleaned", progress=False)
    cleaned = pd.read_csv(done.cleaned)
    expected = towns.copy()
    expected.loc[5, "label"] = '=HYPERLINK("x")'
    pd.testing.assert_frame_equal(cleaned, expected.drop(index=30).reset_index(drop=True))
    assert (done.relabelled, done.dropped, done.kept) == (1, 1, 1)
    assert done.comparison["trained"].tolist() == ["before", "after"]
    assert done.comparison["rows"].tolist() == [90, 89]
    assert done.comparison["judged"].tolist() == [88, 88]
    assert done.loss_change.estimate == pytest.approx(np.diff(done.comparison["loss"])[0])
    assert done.loss_change.low < done.loss_change.estimate < 0
    assert done.accuracy_change.estimate == pytest.approx(np.diff(done.comparison["accuracy"])[0])
    before, after = done.comparison.to_dict("records")
    assert done.sentence.startswith(
        "1 relabelled, 1 dropped, 1 confirmed. Held out, of the 88 rows that were not touched: loss "
        f"{before['loss']:.4g}, then {after['loss']:.4g}, a change of -"
    )
    assert f"accuracy {before['accuracy']:.1%}, then {after['accuracy']:.1%}, a change of " in done.sentence
    assert done.sentence.endswith(
        "95 % intervals over the rows, for these networks alone: trained with another seed they may differ by as much "
        "or more"
    )
    assert done.seeds["loss_change"].tolist() == pytest.approx([done.loss_change.estimate])
    assert done.seeds["accuracy_change"].tolist() == pytest.approx([done.accuracy_change.estimate])
    assert (done.folder / "comparison.csv").is_file()
    assert pd.read_csv(done.folder / "seeds.csv")["seed"].tolist() == [0]


def test_more_marks_are_applied_in_the_same_folder(searched, towns, tmp_path):
    for marks, rows in (([(5, "drop", "x")], 89), ([(5, "drop", "x"), (30, "drop", "x")], 88)):
        read = read_marks(written(tmp_path, searched, marks))
        done = apply_marks(read, searched.folder, tmp_path / "cleaned", progress=False)
        assert len(pd.read_csv(done.cleaned)) == rows
        assert read_marks(done.folder / "marks.csv")["row"].tolist() == [row for row, *_ in marks]


def test_the_folder_of_something_else_is_refused_before_any_training(searched, tmp_path, monkeypatch):
    monkeypatch.setattr("bayes_influence.experiments.attribution.labels.marks.held_out_predictions", None)
    read = read_marks(written(tmp_path, searched, [(5, "drop", "x")]))
    with pytest.raises(ValueError, match="belongs to another configuration"):
        apply_marks(read, searched.folder, searched.folder, progress=False)


def test_seeds_differ_and_the_sentence_says_by_how_much(towns, tmp_path):
    towns.to_csv(tmp_path / "towns.csv", index=False)
    data = LabelData(str(tmp_path / "towns.csv"), target=("label",), epochs=5, learning_rate=0.05, width=3)
    settings = LabelSettings(folds=2, seeds=(0, 3), listed=5, evidence=1)
    marks = read_marks(written_of(tmp_path, towns["label"], [(5, "drop", "x")]))
    done = apply_marks(marks, unsearched(tmp_path / "search", data, settings), tmp_path / "cleaned", progress=False)
    assert done.seeds["seed"].tolist() == [0, 3]
    low, high = done.seeds["loss_change"].agg(["min", "max"])
    assert low < high
    told = f"of 2 seeds each changes the loss by {low:+.3g} to {high:+.3g}, and other seeds may differ by as much"
    assert done.sentence.endswith(told)
    both = done.seeds["loss_then"] - done.seeds["loss"]
    assert both.tolist() == pytest.approx(done.seeds["loss_change"].tolist())


def test_a_script_makes_marks_of_the_table_beside_the_page(searched, tmp_path):
    labels = pd.read_csv(searched.folder / "labels.csv", dtype=str)
    marks = labels.head(3).assign(mark="relabel", new_label=labels["proposed"])
    marks[["data", "row", "label", "mark", "new_label"]].to_csv(tmp_path / "marks.csv", index=False)
    done = apply_marks(read_marks(tmp_path / "marks.csv"), searched.folder, tmp_path / "cleaned", progress=False)
    assert done.relabelled == 3
    assert pd.read_csv(done.cleaned)["label"].iloc[5] == searched.issues.ranked.set_index("row")["proposed"][5]


def test_cells_of_marks_are_read_as_they_are_written(tmp_path):
    (tmp_path / "marks.csv").write_text("data,row,label,mark,new_label\n1234567890123e45,4,007,relabel,NA\n")
    mark = read_marks(tmp_path / "marks.csv").iloc[0]
    assert (mark["data"], mark["row"], mark["label"], mark["new_label"]) == ("1234567890123e45", 4, "007", "NA")


def test_images_are_cleaned_as_a_folder_of_images(tmp_path):
    random, photos = np.random.default_rng(0), tmp_path / "photos"
    for label, shade in (("dark", 40), ("light", 200)):
        (photos / label / "more").mkdir(parents=True)
        for name in ("0", "1", "2", "more/3"):
            pixels = random.normal(shade, 10, (6, 6)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(photos / label / f"{name}.png")
    data = LabelData(str(photos), epochs=1, batch_size=8, width=3)
    search, labels = unsearched(tmp_path / "found", data), pd.Series(["dark"] * 4 + ["light"] * 4)
    marks = [(1, "relabel", "light"), (3, "relabel", "light"), (6, "drop", "light"), (0, "keep", "dark")]
    for _ in range(2):
        path = written_of(tmp_path, labels, marks)
        done = apply_marks(read_marks(path), search, tmp_path / "cleaned", progress=False)
        files = sorted(str(path.relative_to(done.cleaned)) for path in done.cleaned.rglob("*.png"))
        assert files == [
            *("dark/0.png", "dark/2.png", "light/0.png", "light/1.png"),
            *("light/from-dark/1.png", "light/from-dark/more/3.png", "light/more/3.png"),
        ]
    moved = done.cleaned / "light" / "from-dark" / "1.png"
    assert moved.read_bytes() == (photos / "dark" / "1.png").read_bytes()
    assert OwnImages.read(done.cleaned).labels == (0, 0, 1, 1, 1, 1, 1)


def test_cleaned_links_lead_to_the_images_themselves(tmp_path):
    for label in ("a", "b"):
        for name in ("0", "1", "2"):
            image = tmp_path / "store" / f"{label}{name}.png"
            image.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((3, 3), 9 * int(name), np.uint8)).save(image)
            link = tmp_path / "photos" / label / f"{name}.png"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path("..", "..", "store", image.name))
    known = OwnImages.read(tmp_path / "photos")
    place = _write_images(
        known, tmp_path / "photos", {0: 0, 1: 1, 2: 0, 3: 1, 4: 1, 5: 1}, tmp_path / "deep" / "cleaned"
    )
    assert (place / "b" / "from-a" / "1.png").read_bytes() == (tmp_path / "store" / "a1.png").read_bytes()
    assert OwnImages.read(place).labels == (0, 0, 1, 1, 1, 1)


def test_cells_that_nobody_marked_stay_as_they_were_written(towns, tmp_path):
    table = towns[["east", "up"]].round(2).assign(code=[f"{row:04d}" for row in range(90)], sure="TRUE")
    lines = [
        f"{row.east:.3f};{row.up:.3f};{row.code};{row.sure};{label}"
        for row, label in zip(table.itertuples(), np.where(towns["label"] == "north", "007", "050"), strict=True)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["east;up;code;sure;label", *lines]) + "\n")
    data = LabelData(
        str(tmp_path / "t.csv"), target=("label",), separator=";", task="classification", epochs=5, width=3
    )
    found = find_in_data(data, tmp_path / "search", QUICK, progress=False)
    marks = written(tmp_path, found, [(4, "drop", "7"), (6, "relabel", "50"), (7, "keep", "50")])
    done = apply_marks(read_marks(marks), found.folder, tmp_path / "cleaned", progress=False)
    expected = [line for row, line in enumerate(lines) if row != 4]
    expected[5] = expected[5].rsplit(";", 1)[0] + ";050"
    assert done.cleaned.read_text().splitlines()[1:] == expected


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_keep_their_names_and_rows_theirs(towns, tmp_path, kind):
    path, table = tmp_path / f"t.{kind}", towns[["east", "up", "label"]]
    named = table.set_axis([f"town {row}" for row in range(90)]).rename_axis("town")
    if kind == "csv":
        table.to_csv(path)
    else:
        named.to_parquet(path)
    data = LabelData(str(path), target=("label",), epochs=5, width=3)
    marks = {0: table["label"][1], 1: table["label"][1]}
    examples = data.examples()
    names = every_class_name(examples)
    targets = examples.targets.clone()
    targets[0] = targets[1]
    after = with_targets(examples, targets).at(torch.tensor([row for row in range(90) if row != 7]))
    cleaned = write_cleaned(data, examples, after, names, tmp_path)
    if kind == "csv":
        lines = path.read_text().splitlines()
        assert cleaned.read_text().splitlines()[0] == ",east,up,label"
        assert cleaned.read_text().splitlines()[2:] == [line for row, line in enumerate(lines[1:]) if row not in (0, 7)]
        assert pd.read_csv(cleaned)["label"][0] == marks[0]
    else:
        expected = named.drop(index="town 7")
        expected.loc["town 0", "label"] = marks[0]
        pd.testing.assert_frame_equal(pd.read_parquet(cleaned), expected)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_marks_that_a_spreadsheet_stored_with_another_separator_are_read(tmp_path, separator):
    lines = "data,row,label,mark,new_label\na,4,007,relabel,x\n"
    (tmp_path / "marks.csv").write_text(lines.replace(",", separator))
    mark = read_marks(tmp_path / "marks.csv").iloc[0]
    assert (mark["row"], mark["label"], mark["new_label"]) == (4, "007", "x")


def test_rows_that_are_text_in_parquet_are_read_as_numbers(tmp_path):
    marks = pd.DataFrame({"data": ["a"], "row": ["4"], "label": ["x"], "mark": ["drop"], "new_label": ["x"]})
    marks.to_parquet(tmp_path / "marks.parquet")
    assert read_marks(tmp_path / "marks.parquet")["row"].tolist() == [4]


def test_the_search_is_found_by_its_data(searched, tmp_path):
    marks = read_marks(written(tmp_path, searched, [(5, "drop", "x")]))
    assert run_of_marks(marks, searched.folder.parent) == searched.folder
    with pytest.raises(ValueError, match="is of the data that were marked; say --run"):
        run_of_marks(marks.assign(data="other"), searched.folder.parent)


def test_searches_of_the_same_labels_are_told_and_others_are_passed_over(searched, tmp_path):
    marks = read_marks(written(tmp_path, searched, [(5, "drop", "x")]))
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for name, text in (("first", ""), ("second", "row,label\n")):
        (tmp_path / "runs" / name / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match="no search for wrong labels in"):
        run_of_marks(marks, tmp_path / "runs")
    shutil.copy(searched.folder / "labels.csv", tmp_path / "runs" / "second")
    assert run_of_marks(marks, tmp_path / "runs") == tmp_path / "runs" / "second"
    shutil.copy(searched.folder / "labels.csv", tmp_path / "runs" / "first")
    with pytest.raises(ValueError, match=r"2 searches for wrong labels are of the data .*first, .*second; say --run"):
        run_of_marks(marks, tmp_path / "runs")


@pytest.mark.parametrize(
    ("marks", "changes", "message"),
    [
        ([(700, "drop", "x")], {}, "row 700 is marked, but towns.* has no such row"),
        (
            [(2, "keep", "x")],
            {"label": "x"},
            r"row 2 is marked with the label 'x', but it has the label '=HYPERLINK\(\"x\"\)' in",
        ),
        ([(5, "relabel", "west")], {}, "a row is relabelled 'west', which is no class; there are"),
    ],
)
def test_marks_that_do_not_fit_are_refused_before_any_training(
    searched, tmp_path, monkeypatch, marks, changes, message
):
    monkeypatch.setattr("bayes_influence.experiments.attribution.labels.marks.held_out_predictions", None)
    read = read_marks(written(tmp_path, searched, marks, **changes))
    with pytest.raises(ValueError, match=message):
        apply_marks(read, searched.folder, tmp_path / "none", progress=False)


def test_marks_of_another_data_set_are_refused(searched, tmp_path):
    marks = read_marks(written(tmp_path, searched, [(5, "drop", "x")], data="0123456789abcdef"))
    with pytest.raises(ValueError, match="the marks are of another data set than the search in"):
        apply_marks(marks, searched.folder, tmp_path / "none", progress=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "row,label\n1,a\n",
            "is no file of marks, which has the columns data, row, label, mark, new_label; got no",
        ),
        ("data,row,label,mark,new_label\n", "holds no mark; mark rows on the page"),
        ("data,row,label,mark,new_label\na,1,x,drop,x\nb,2,x,drop,x\n", "holds marks of 2 data sets"),
        ("data,row,label,mark,new_label\na,1,x,drop,x\na,1,x,keep,x\n", "marks row 1 twice"),
        (
            "data,row,label,mark,new_label\na,first,x,drop,x\n",
            "must say rows by their numbers in the column row: .*first",
        ),
        ("data,row,label,mark,new_label\na,1,x,burn,x\n", "holds the unknown mark 'burn'; known: keep, relabel, drop"),
    ],
)
def test_what_is_no_file_of_marks_is_refused(tmp_path, text, message):
    (tmp_path / "marks.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_marks(tmp_path / "marks.csv")


def test_a_folder_of_something_else_is_refused(searched, tmp_path):
    marks = read_marks(written(tmp_path, searched, [(5, "drop", "x")]))
    StudyFolder(tmp_path / "other", {"study": "train"})
    with pytest.raises(ValueError, match="holds no search for wrong labels"):
        apply_marks(marks, tmp_path / "other", tmp_path / "none", progress=False)


def test_arrays_are_cleaned_as_arrays(tmp_path):
    random = np.random.default_rng(0)
    targets = np.arange(30) % 2
    inputs = random.normal(size=(30, 2)) + 6.0 * targets[:, None]
    np.savez(tmp_path / "points.npz", inputs=inputs, targets=targets)
    data = LabelData(str(tmp_path / "points.npz"), epochs=20, learning_rate=0.05, width=4)
    searched = find_in_data(data, tmp_path / "found", QUICK, progress=False)
    marks = read_marks(written(tmp_path, searched, [(4, "relabel", "1"), (7, "drop", "1")]))
    done = apply_marks(marks, searched.folder, tmp_path / "cleaned", progress=False)
    with np.load(done.cleaned) as cleaned:
        assert cleaned["targets"].tolist() == [1 if row == 4 else row % 2 for row in range(30) if row != 7]
        np.testing.assert_array_equal(cleaned["inputs"], np.delete(inputs, 7, axis=0))
