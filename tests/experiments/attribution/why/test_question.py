from unittest.mock import Mock

import pandas as pd
import torch
from rich.text import Text

from bayes_influence.experiments.attribution.why.explanation import Explanation, printed_explanation
from bayes_influence.experiments.attribution.why.question import FOR_AND_AGAINST, UP_AND_DOWN, Effects, Question


def test_first_rows_have_the_sign_of_their_kind_and_none_is_of_both():
    removal = torch.tensor([[3.0, -1.0, 2.0, -4.0, 0.5]])
    effects = Effects(removal, FOR_AND_AGAINST)
    assert effects.first(0, "for", 2).tolist() == [0, 2]
    assert effects.first(0, "against", 2).tolist() == [3, 1]
    assert (effects.first(0, "for", 4).tolist(), effects.first(0, "against", 4).tolist()) == ([0, 2, 4], [3, 1])
    numbers = Effects(removal, UP_AND_DOWN)
    assert (numbers.first(0, "up", 4).tolist(), numbers.first(0, "down", 4).tolist()) == ([3, 1], [0, 2, 4])


def test_no_row_is_named_for_the_opposite_of_what_it_does():
    removal = torch.tensor([[0.5, 0.4, *(-0.1 * place for place in range(1, 19))], [-1.0] * 19 + [0.0]])
    effects = Effects(removal, FOR_AND_AGAINST)
    assert effects.first(0, "for", 5).tolist() == [0, 1]
    assert effects.first(0, "against", 5).tolist() == [19, 18, 17, 16, 15]
    assert effects.first(1, "for", 5).tolist() == []
    assert Effects(removal, UP_AND_DOWN).first(0, "down", 5).tolist() == [0, 1]


def test_kinds_of_unequal_length_are_printed_beside_each_other(tmp_path):
    rows = [("for", 1, 7, 0.5), ("for", 2, 8, 0.25), ("against", 1, 9, -0.5)]
    evidence = pd.DataFrame(rows, columns=["kind", "rank", "train_id", "removal"])
    evidence = evidence.assign(test=0, measurement="prediction", train_target="cat")
    described = pd.DataFrame({"test": [0]})
    question = Mock(Question, caption="", title=lambda _: "test 0", heading=lambda _, kind: f"{kind} [/day]")
    (table,) = printed_explanation(Explanation(tmp_path, question, described, evidence, pd.DataFrame(), ""))
    assert [list(column.cells) for column in table.columns] == [
        ["1", "2"],
        ["7 (cat): +5.00e-01", "8 (cat): +2.50e-01"],
        ["9 (cat): -5.00e-01", ""],
    ]
    assert [Text.from_markup(column.header).plain for column in table.columns] == [
        "rank",
        "for [/day]",
        "against [/day]",
    ]
