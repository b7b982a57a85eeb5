import numpy as np
import pandas as pd
import pytest

from bayes_influence.data.columns import Form, checked_form

ROWS = 6


def table(**columns):
    usual = {"age": [1.0, 2.0, 3.0, 4.0, 5.0, 6.5], "town": list("aabbab"), "y": ["n", "p", "n", "p", "n", "p"]}
    return pd.DataFrame(usual | columns)


@pytest.mark.parametrize(
    ("target", "task"),
    [
        (["n", "p", "n", "p", "n", "p"], "classification"),
        ([True, False] * 3, "classification"),
        ([0, 1] * 3, "classification"),
        ([0.5, 1.0, 2.0, 3.0, 1.0, 2.0], "regression"),
    ],
)
def test_the_task_is_told_from_a_target_that_leaves_no_doubt(target, task):
    assert checked_form(table(y=target), Form(("y",)), "t").task == task


def test_several_targets_are_labels_where_all_are_0_or_1():
    frame = table(y=[0, 1] * 3, z=[1, 1, 0, 0, 1, 0])
    assert checked_form(frame, Form(("y", "z")), "t").task == "labels"
    assert checked_form(frame.assign(z=np.arange(6) / 2), Form(("y", "z")), "t").task == "regression"


@pytest.mark.parametrize(
    ("columns", "form", "message"),
    [
        ({}, Form(("z",)), "t: there is no column 'z'; there are age, town, y"),
        ({"y": ["n"] * 6}, Form(("y",)), "t: the target 'y' is n in every row"),
        ({"y": ["n", "p", None, "p", "n", "p"]}, Form(("y",)), r"target 'y' is missing in 1 of 6 rows \(.* row 2\)"),
        ({"y": ["n", "p", "n", "p", "n", "q"]}, Form(("y",)), "the class q of 'y' has one member"),
        ({"y": [0, 1, 2, 0, 1, 2]}, Form(("y",)), "'y' holds 3 different whole numbers, which may be classes or amo"),
        ({"age": [1, 2, "old", 4, 5, 6]}, Form(("y",)), "'age' mixes numbers and text .* the first is 'old' in row 2"),
        ({"age": [1, 2, np.nan, 4, 5, 6]}, Form(("y",)), r"'age' misses 1 of 6 values \(the first in row 2\); drop"),
        ({"age": [1, 2, np.inf, 4, 5, 6]}, Form(("y",)), "'age' must hold finite numbers, got inf in row 2"),
        ({"age": [np.nan] * 6}, Form(("y",)), "column 'age' holds no value at all; drop it"),
        ({"z": [0, 1, 2, 0, 1, 2]}, Form(("y", "z"), "labels"), "labels are 0 or 1, but column 'y' holds other"),
        ({"z": [0, 1] * 3}, Form(("y", "z"), "classification"), "classes stand in one target column, got 2"),
        ({"z": [0, 1] * 3}, Form(("y", "z")), "several target columns must all hold 0 and 1, or all real numbers"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_column_and_row(columns, form, message):
    with pytest.raises(ValueError, match=message):
        checked_form(table(**columns), form, "t")


def test_a_table_without_rows_or_without_inputs_is_refused():
    with pytest.raises(ValueError, match="t: the table has no rows"):
        checked_form(table().iloc[:0], Form(("y",)), "t")
    with pytest.raises(ValueError, match="there is no column beside the target y"):
        checked_form(table()[["y"]], Form(("y",)), "t")


def test_columns_of_one_name_are_refused():
    frame = table().set_axis(["age", "age", "y"], axis=1)
    with pytest.raises(ValueError, match="two columns are called 'age'"):
        checked_form(frame, Form(("y",)), "t")


def test_words_that_name_rows_are_no_categories_unless_it_is_said():
    frame = pd.DataFrame({"name": [f"n{row}" for row in range(120)], "y": [0, 1] * 60})
    with pytest.raises(ValueError, match="'name' holds 120 different words in 120 rows, at most 100"):
        checked_form(frame, Form(("y",)), "t")
    assert checked_form(frame, Form(("y",), categorical=("name",)), "t").task == "classification"


def test_rows_that_repeat_others_are_reported(caplog):
    frame = pd.concat([table(), table().iloc[[1, 4]]], ignore_index=True)
    checked_form(frame, Form(("y",)), "t")
    assert "t: 2 of 8 rows repeat an earlier row (6, 7)" in caplog.text


def test_forms_that_say_nothing_known_are_refused():
    with pytest.raises(ValueError, match="a table needs to know its target"):
        Form(())
    with pytest.raises(ValueError, match="each target column once, got y, y"):
        Form(("y", "y"))
    with pytest.raises(ValueError, match="unknown task 'clustering'; known: classification, labels, regression"):
        Form(("y",), "clustering")
    with pytest.raises(ValueError, match="unknown missing 'drop'; known: refuse, impute"):
        Form(("y",), missing="drop")
