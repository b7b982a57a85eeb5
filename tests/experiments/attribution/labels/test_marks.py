import numpy as np
import pandas as pd
import pytest

from bayes_influence.experiments.attribution.labels.marks import apply_marks, read_marks, run_of_marks
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


def written(folder, searched, marks, **changes):
    """A file of marks, (row, mark, new label) each."""
    ranked = searched.issues.ranked
    identity = data_id(ranked["row"].tolist(), ranked["label"].tolist())
    frame = pd.DataFrame(marks, columns=["row", "mark", "new_label"]).assign(data=identity, label="x").assign(**changes)
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
    assert (done.folder / "comparison.csv").is_file()


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


def test_the_search_is_found_by_its_data(searched, tmp_path):
    marks = read_marks(written(tmp_path, searched, [(5, "drop", "x")]))
    assert run_of_marks(marks, searched.folder.parent) == searched.folder
    with pytest.raises(ValueError, match="is of the data that were marked; say --run"):
        run_of_marks(marks.assign(data="other"), searched.folder.parent)


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ([(700, "drop", "x")], "row 700 is marked, but towns.* has no such row"),
        ([(5, "relabel", "west")], "a row is relabelled 'west', which is no class; there are"),
    ],
)
def test_marks_that_do_not_fit_are_refused(searched, tmp_path, marks, message):
    with pytest.raises(ValueError, match=message):
        apply_marks(read_marks(written(tmp_path, searched, marks)), searched.folder, tmp_path / "none", progress=False)


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
