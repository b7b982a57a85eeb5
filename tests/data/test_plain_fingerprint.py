import json

import pytest
import torch

from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.data.plain_fingerprint import plain_fingerprint

CONTENTS = {
    "config": {"b": [1, 2.5, -0.0, None], "a": {"deep": {"er": [True, "é\ud800"]}}, "c": (), "d": {}},
    "versions": {"torch": "2", "python": 3},
    "number": float("inf"),
}


def test_what_json_can_hold_has_the_fingerprint_that_it_has_among_all_else():
    assert plain_fingerprint(**CONTENTS) == fingerprint(**CONTENTS)
    assert plain_fingerprint() == fingerprint()


def test_any_other_content_has_another():
    changed = [
        {**CONTENTS, "number": float("-inf")},
        {**CONTENTS, "versions": {"torch": 2, "python": 3}},
        {**CONTENTS, "config": {**CONTENTS["config"], "c": []}},
        {**CONTENTS, "config": {**CONTENTS["config"], "b": [1, 2.5, 0.0, None]}},
        {**CONTENTS, "more": None},
    ]
    found = {plain_fingerprint(**one) for one in [CONTENTS, *changed]}
    assert len(found) == 6
    text = json.dumps(CONTENTS["versions"])
    assert plain_fingerprint(**json.loads(text)) == plain_fingerprint(**CONTENTS["versions"])


@pytest.mark.parametrize("value", [torch.ones(2), {1, 2}, b"bytes"])
def test_anything_else_is_refused(value):
    with pytest.raises(TypeError, match=rf"config\[0\] is a {type(value).__name__}, which JSON cannot hold"):
        plain_fingerprint(config=[value])
