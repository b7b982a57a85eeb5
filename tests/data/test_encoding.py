import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from bayes_influence.data.columns import Form, checked_form
from bayes_influence.data.encoding import Encoding

TRAIN = pd.DataFrame(
    {
        "age": [1.0, 2.0, np.nan, 4.0, 5.0, 6.0],
        "town": ["a", "b", "b", None, "c", "b"],
        "zip": [10, 20, 10, 20, 10, 10],
        "y": [2.0, 3.5, 1.0, 0.0, 1.0, 7.0],
    }
)
FORM = Form(("y",), categorical=("zip",), missing="impute")


def learned(frame=TRAIN, form=FORM):
    return Encoding.learn(frame, checked_form(frame, form, "t"), "t")


def test_inputs_are_those_of_scikit_learns_encoders_fitted_on_the_training_rows():
    new = pd.DataFrame({"age": [3.0, np.nan], "town": ["c", None], "zip": [20, 20], "y": [0.0, 1.0]})
    filled = [part.fillna({"age": TRAIN["age"].mean(), "town": "b"}) for part in (TRAIN, new)]
    hot = OneHotEncoder(sparse_output=False).fit(filled[0][["town", "zip"]])
    raw = [np.hstack([part[["age"]], hot.transform(part[["town", "zip"]])]) for part in filled]
    expected = StandardScaler().fit(raw[0]).transform(raw[1])
    np.testing.assert_allclose(learned().inputs(new).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(learned().inputs(new, standardised=False).numpy(), raw[1])
    assert learned().feature_names == ("age", "town=a", "town=b", "town=c", "zip=10", "zip=20")


def test_real_targets_are_standardised_on_the_training_rows():
    found = learned().targets(pd.DataFrame({"y": [4.0]}))
    assert found.shape == (1, 1)
    assert float(found) == pytest.approx((4.0 - TRAIN["y"].mean()) / TRAIN["y"].std(ddof=0))


def test_classes_are_ordered_as_numbers_where_they_are_and_else_as_words():
    for values, names in (([10, 9, 10, 9, 10, 9], ("9", "10")), (list("babaab"), ("a", "b"))):
        data = learned(TRAIN.assign(y=values), FORM).dataset(TRAIN.assign(y=values), range(6))
        assert data.class_names == names
        assert [data.class_names[index] for index in data.targets.tolist()] == [str(value) for value in values]


def test_labels_are_real_numbers_of_0_and_1():
    frame = TRAIN.assign(y=[0, 1] * 3, z=[1, 1, 0, 0, 1, 0])
    targets = learned(frame, Form(("y", "z"), missing="impute")).targets(frame)
    assert targets.dtype == torch.float64
    assert targets.tolist() == [[0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 0]]


def test_an_encoding_survives_json():
    assert Encoding.from_config(json.loads(json.dumps(learned().to_config()))) == learned()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"town": "d"}, "new: column 'town' holds 'd' in row 0, a category that no training row has; known: a, b, c"),
        ({"age": "old"}, "new: column 'age' must hold finite numbers, got 'old' in row 0"),
        ({"zip": 30}, "column 'zip' holds '30' in row 0"),
    ],
)
def test_new_rows_that_the_encoding_does_not_know_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        learned().inputs(pd.DataFrame([{"age": 1.0, "town": "a", "zip": 10} | changes]), "new")


def test_new_rows_need_the_columns_and_for_a_loss_the_targets():
    with pytest.raises(ValueError, match="there is no column 'town', which the training rows have; there are age"):
        learned().inputs(pd.DataFrame({"age": [1.0]}))
    with pytest.raises(ValueError, match="there is no column 'y' with the targets"):
        learned().targets(pd.DataFrame({"age": [1.0]}))
    whole = TRAIN.dropna()
    encoding = learned(whole, Form(("y",)))
    with pytest.raises(ValueError, match="column 'age' misses 1 of 6 values"):
        encoding.inputs(TRAIN)


def test_an_unknown_class_is_refused():
    frame = TRAIN.assign(y=list("babaab"))
    with pytest.raises(
        ValueError, match="column 'y' holds 'z' in row 0, a class that no training row has; known: a, b"
    ):
        learned(frame).targets(pd.DataFrame({"y": ["z"]}))


def test_which_rows_are_known():
    rows = pd.DataFrame({"town": ["a", "d", None], "zip": [10, 10, 10], "age": 1.0})
    assert learned().knows(rows).tolist() == [True, False, True]
