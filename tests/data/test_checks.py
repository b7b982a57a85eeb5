"""Bad inputs, one a line: each is refused in a sentence that says what came, what was expected and what to do."""

import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from bayes_influence.data.checks import warn_of_equal_targets
from bayes_influence.data.dataset import Dataset

pytestmark = pytest.mark.usefixtures("as_installed")

INPUTS = torch.arange(12.0).reshape(6, 2)
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2])
NAMES = ("a", "b", "c")
ONE_HOT = torch.nn.functional.one_hot(CLASSES)


def spoilt(value, *places, like=INPUTS):
    found = like.clone()
    for place in places:
        found[place] = value
    return found


BAD_INPUTS = [
    (INPUTS.numpy(), TypeError, r"inputs must be tensors, got numpy's ndarray; convert with torch\.as_tensor \(inputs"),
    (INPUTS.tolist(), TypeError, "inputs must be tensors, got float; .*are one tensor, or a tuple or dict of tensors"),
    (pd.DataFrame(INPUTS.numpy()), TypeError, "inputs must be tensors, got pandas's DataFrame"),
    (TensorDataset(INPUTS), TypeError, "inputs must be tensors, got torch's TensorDataset"),
    ({"x": INPUTS, "y": None}, TypeError, "inputs must be tensors, got None"),
    ("iris", TypeError, "inputs must be tensors, got str"),
    ((), ValueError, "inputs hold no tensor; inputs are one tensor, or a tuple"),
    ({}, ValueError, "inputs hold no tensor"),
    (torch.tensor(1.0), ValueError, "inputs must have the examples along their first axis, got one number alone"),
    (INPUTS.T, ValueError, r"inputs, targets and ids must be equally long, got lengths \[2, 6\]"),
    ((INPUTS, INPUTS[:5]), ValueError, r"must be equally long, got lengths \[5, 6\]"),
    (spoilt(torch.nan, (2, 1), (4, 0)), ValueError, "inputs must be finite, but 2 of 6 .*the first is id 12.; drop or"),
    (spoilt(torch.inf, (5, 0)), ValueError, "inputs must be finite, but 1 of 6 .*the first is id 15"),
    ((INPUTS, spoilt(torch.nan, (3, 0))), ValueError, "inputs must be finite, but 1 of 6 .*the first is id 13"),
]

BAD_TARGETS = [
    (CLASSES.numpy(), TypeError, r"targets must be tensors, got numpy's ndarray; convert with torch\.as_tensor$"),
    (CLASSES.tolist(), TypeError, "targets must be tensors, got list"),
    (None, TypeError, "targets must be tensors, got None"),
    ([str(label) for label in CLASSES.tolist()], TypeError, "targets must be tensors, got list"),
    (torch.tensor(1), ValueError, "targets must have the examples along their first axis"),
    (CLASSES[:5], ValueError, r"inputs, targets and ids must be equally long, got lengths \[5, 6\]"),
    (CLASSES == 1, TypeError, r"got booleans; take targets\.long\(\) for two classes, or targets\.float\(\)"),
    (CLASSES * 1j, TypeError, "targets must be class indices or real numbers, got complex numbers"),
    (CLASSES.float(), TypeError, r"needs class indices, got torch\.float32 of shape \(6,\); take targets\.long\(\)"),
    (ONE_HOT.float(), TypeError, r"got torch\.float32 of shape \(6, 3\); take targets\.argmax\(1\), or give no class"),
    (torch.full((6, 3), 1 / 3), TypeError, r"class names needs class indices, got torch\.float32 of shape \(6, 3\)"),
    (ONE_HOT, ValueError, r"targets of shape \(6, 3\) are one-hot, .*take targets\.argmax\(1\), or targets\.float"),
    (CLASSES[:, None], ValueError, r"must have shape \(6,\), got \(6, 1\); take targets\.flatten\(\)"),
    (
        CLASSES + 1,
        ValueError,
        r"in 0\.\.2, got 1\.\.3 \(the first beyond is id 12\); they count from 1, take targets - 1",
    ),
    (spoilt(3, 4, like=CLASSES), ValueError, r"got 0\.\.3 \(the first beyond is id 14\); name every class, or mend"),
    (spoilt(7, 1, like=CLASSES + 1), ValueError, r"got 1\.\.7 \(the first beyond is id 11\); name every class"),
    (spoilt(-100, 1, 3, like=CLASSES), ValueError, r"start at 0, got -100 \(2 of 6 .* first is id 11\); leave out"),
    (2 * (CLASSES % 2) - 1, ValueError, r"class indices start at 0, got -1 .*or take targets\.float\(\) for a loss"),
    (
        torch.stack([CLASSES, CLASSES + 2], 1),
        ValueError,
        r"in 0\.\.2, got 0\.\.4 \(the first beyond is id 11\)",
    ),
]

BAD_REGRESSION_TARGETS = [
    (spoilt(torch.nan, 5, like=INPUTS[:, 0]), ValueError, "targets must be finite, but 1 of 6 .*the first is id 15"),
    (spoilt(torch.inf, (0, 1)), ValueError, "targets must be finite, but 1 of 6 .*the first is id 10"),
    (
        spoilt(-1, 2, like=CLASSES),
        ValueError,
        r"got -1 \(1 of 6 examples are negative, the first is id 12\)",
    ),
    (CLASSES[:, None], ValueError, r"must have shape \(6,\), got \(6, 1\)"),
    (ONE_HOT, ValueError, r"are one-hot, expected class indices"),
    (CLASSES == 1, TypeError, "got booleans"),
]

BAD_WEIGHTS = [
    ([1.0] * 6, TypeError, r"weights must be a tensor, got list; convert with torch\.as_tensor"),
    (1.0, TypeError, "weights must be a tensor, got float"),
    (
        torch.ones(6, dtype=torch.int64),
        ValueError,
        r"must be 6 real numbers, .*got torch\.int64 of shape \(6,\)",
    ),
    (torch.ones(6, dtype=torch.bool), ValueError, r"must be 6 real numbers, .*got torch\.bool of shape \(6,\)"),
    (torch.ones(6, 1), ValueError, r"one per example, got torch\.float32 of shape \(6, 1\)"),
    (torch.ones(5), ValueError, r"one per example, got torch\.float32 of shape \(5,\)"),
    (torch.ones(3), ValueError, r"one per example, got torch\.float32 of shape \(3,\)"),
    (spoilt(torch.nan, 2, like=torch.ones(6)), ValueError, "weights must be finite, but 1 of 6 .*the first is id 12"),
    (spoilt(-2, 1, like=torch.ones(6)), ValueError, "weights must be at least 0 and not all 0, got -2 to 1; leave out"),
    (torch.zeros(6), ValueError, "weights must be at least 0 and not all 0, got 0 to 0; .*or do without weights"),
]

BAD_IDS = [
    (torch.arange(6) < 3, TypeError, "ids must be whole numbers, got booleans"),
    (torch.arange(6.0), TypeError, "ids must be whole numbers, got float32"),
    ([str(index) for index in range(6)], TypeError, "ids must be whole numbers, got str"),
    (torch.arange(6)[:, None], ValueError, r"ids must be one list of whole numbers, got shape \(6, 1\)"),
    (
        torch.tensor([1, 2, 3, 3, 4, 5]),
        ValueError,
        "ids must be unique; drop the duplicates or number the rows",
    ),
    (range(5), ValueError, r"inputs, targets and ids must be equally long, got lengths \[5, 6\]"),
]

BAD_NAMES = [
    ({"class_names": "abc"}, TypeError, "class names must be a tuple of strings, got str 'abc'"),
    ({"class_names": (0, 1, 2)}, TypeError, "class names must be a tuple of strings, got int 0"),
    ({"class_names": 3}, TypeError, "class names must be a tuple of strings, got int 3"),
    ({"class_names": ("b", "a", "a")}, ValueError, "class names must differ, got 'a' twice"),
    ({"feature_names": ("x",)}, ValueError, "1 feature names for 2 features; give one each, or none"),
    ({"feature_names": ("x", "x")}, ValueError, "feature names must differ, got 'x' twice"),
    ({"feature_names": "xy"}, TypeError, "feature names must be a tuple of strings, got str 'xy'"),
]


def case(argument, value, error, message, **others):
    return pytest.param({argument: value, **others}, error, message, id=f"{argument}: {message[:50]}")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *(case("inputs", *row) for row in BAD_INPUTS),
        *(case("targets", *row) for row in BAD_TARGETS),
        *(case("targets", *row, class_names=()) for row in BAD_REGRESSION_TARGETS),
        *(case("weights", *row) for row in BAD_WEIGHTS),
        *(case("ids", *row) for row in BAD_IDS),
        *(pytest.param(*row, id=row[2][:60]) for row in BAD_NAMES),
    ],
)
def test_what_makes_no_data_set(arguments, error, message):
    parts = {"inputs": INPUTS, "targets": CLASSES, "ids": torch.arange(10, 16), "name": "toy", "class_names": NAMES}
    with pytest.raises(error, match=message) as caught:
        Dataset(**parts | arguments)
    assert str(caught.value).startswith(("toy: ", "ids must be "))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_class_indices_of_any_width_are_kept_as_int64(dtype):
    found = Dataset(INPUTS, CLASSES.to(dtype), range(6), class_names=list(NAMES))
    assert (found.targets.dtype, found.targets.tolist()) == (torch.int64, CLASSES.tolist())
    assert (found.ids.dtype, found.class_names) == (torch.int64, NAMES)


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([[0, 4], [3, -100], [1, 1], [2, 2], [0, 0], [5, 5]]),
        torch.zeros(6, 2, 2, dtype=torch.int64),
        torch.tensor([[1, 1], [0, 1], [1, 0], [0, 1], [0, 0], [1, 0]]),
        torch.tensor([[2, -1], [0, 1], [1, 0], [0, 1], [3, -2], [1, 0]]),
        ONE_HOT.float(),
        torch.full((6, 3), 1 / 3),
        -CLASSES.float(),
        CLASSES.float()[:, None],
    ],
)
def test_sequences_and_real_targets_are_taken_as_they_are(targets):
    assert torch.equal(Dataset(INPUTS, targets, torch.arange(6)).targets, targets)


def test_a_few_sequences_may_look_one_hot():
    sequences = torch.tensor([[0, 1], [1, 0], [0, 1]])
    assert torch.equal(Dataset(INPUTS[:3], sequences, torch.arange(3)).targets, sequences)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (torch.tensor([2.5]), "table: there is one training example, from which nothing can be learned but itself"),
        (torch.full((3,), 2.5), "table: all 3 training targets are 2.5; nothing can be learned from them"),
        (torch.ones(4, 2), "table: all 4 training targets are the same; nothing can be learned from them"),
        (torch.tensor([[1.0, 2.0], [1.0, 3.0]]), ""),
        (torch.tensor([0, 1]), ""),
    ],
)
def test_equal_targets_are_warned_of(targets, said, caplog):
    warn_of_equal_targets("table", targets)
    assert [record.message for record in caplog.records] == [said] * bool(said)
