import numpy as np
import pandas as pd
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.labels.looks import looks_of


def test_rows_of_a_table_are_told_in_its_own_units_the_oddest_column_first():
    frame = pd.DataFrame({"size": [1.0, 1.0, 1.0, 90.5], "kind": ["a", "a", "a", "b"], "label": list("xyxy")})
    frame["plain"] = [1, 2, 1, 2]
    data = Dataset(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), torch.arange(4), class_names=("x", "y"))
    found = looks_of(data, [3, 0], frame, "label")
    assert found[3].text == "size = 90.5, kind = b, plain = 2"
    assert (found[3].label, found[0].label) == ("y", "x")
    assert list(found) == [3, 0]


def test_a_missing_value_does_not_stand_out():
    frame = pd.DataFrame({"size": [np.nan, 1.0, 2.0], "label": list("xyx")})
    data = Dataset(torch.zeros(3, 1), torch.tensor([0, 1, 0]), torch.arange(3), class_names=("x", "y"))
    assert looks_of(data, [0], frame, "label")[0].text == "size = nan"


def test_without_a_table_an_example_is_told_as_networks_see_it():
    data = Dataset(torch.tensor([[0.0, 5.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.arange(2))
    assert looks_of(data, [0])[0].text == "[1] = 5, [0] = 0"
