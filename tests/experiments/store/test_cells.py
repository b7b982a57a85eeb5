import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.experiments.store.cells import CellResult, cell_key, decode_cell, encode_cell
from bayes_influence.training.checkpoints import encode_checkpoint


def full_result():
    frame = pd.DataFrame(
        {
            "scheme": ["bnn", "weight-decay+swa", None],
            "loss": [0.1 + 0.2, np.nan, -np.inf],
            "example": np.array([3, 1, 2], dtype=np.int64),
            "converged": [True, False, True],
        }
    )
    arrays = {"theta": torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    return CellResult({"results": frame, "empty": frame.iloc[:0]}, {**arrays, "scalar": np.float32(np.pi)})


def test_a_cell_comes_back_exactly():
    result = full_result()
    back = decode_cell(encode_cell(result))
    pd.testing.assert_frame_equal(back.tables["results"], result.tables["results"], check_exact=True)
    pd.testing.assert_frame_equal(back.tables["empty"], result.tables["empty"])
    np.testing.assert_array_equal(back.arrays["theta"], result.arrays["theta"].numpy())
    assert back.arrays["theta"].dtype == np.float64
    assert back.arrays["scalar"].shape == ()
    assert back.arrays["scalar"] == np.float32(np.pi)


def test_the_order_in_memory_does_not_matter():
    transposed = np.arange(6.0).reshape(2, 3).T
    back = decode_cell(encode_cell(CellResult({}, {"a": transposed})))
    np.testing.assert_array_equal(back.arrays["a"], transposed)


@given(st.lists(st.floats(width=64), min_size=1))
def test_every_float_keeps_its_bits(values):
    column = np.array(values)
    back = decode_cell(encode_cell(CellResult({"t": pd.DataFrame({"x": column})})))
    assert back.tables["t"]["x"].to_numpy().tobytes() == column.tobytes()


def test_every_truncation_is_detected():
    content = encode_cell(full_result())
    for length in range(0, len(content), 7):
        with pytest.raises(DamagedFileError, match=r"truncated, or no file of this library|checksum"):
            decode_cell(content[:length])


def test_any_flipped_bit_is_detected():
    content = encode_cell(full_result())
    for place in range(0, 8 * len(content), 11):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedFileError, match=r"checksum|truncated"):
            decode_cell(bytes(flipped))


def test_another_safetensors_file_is_no_cell():
    from safetensors.numpy import save

    with pytest.raises(DamagedFileError, match="no file of this library"):
        decode_cell(save({"a": np.zeros(2)}))
    with pytest.raises(DamagedFileError, match=r"it is no cell, but holds \['checkpoint'\]"):
        decode_cell(encode_checkpoint({"epoch": torch.tensor(1)}, {}))


def test_a_key_says_what_distinguishes_the_cell():
    assert cell_key(scheme="weight-decay+swa", depth=1, decay=0.005) == "scheme=weight-decay+swa,depth=1,decay=0.005"


def test_the_longest_key_and_the_widest_numbers_that_can_be_stored():
    assert len(cell_key(key="x" * 196)) == 200
    with pytest.raises(ValueError, match="1 to 200 letters"):
        cell_key(key="x" * 197)
    assert decode_cell(encode_cell(CellResult({}, {"a": np.ones(2, np.uint64)}))).arrays["a"].dtype == np.uint64
    with pytest.raises(TypeError, match=r"array 'a' must hold .* at most 64 bits"):
        encode_cell(CellResult({}, {"a": np.ones(2, np.longdouble)}))


@pytest.mark.parametrize("value", ["a/b", "..", "x" * 300, "a b"])
def test_a_key_that_is_no_file_name_is_refused(value):
    with pytest.raises(ValueError, match="becomes a file name"):
        cell_key(scheme=f"/{value}" if value == ".." else value)


@pytest.mark.parametrize(
    ("frame", "error", "match"),
    [
        (pd.DataFrame({"x": [1.0, 2.0]}, index=[1, 2]), ValueError, "call reset_index"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), ValueError, "columns must differ"),
        (pd.DataFrame({"x": ["a", 1]}), TypeError, "mixes strings with int"),
        (pd.DataFrame({"x": pd.to_datetime(["2020-01-01"])}), TypeError, "column 'x' of 't' must hold"),
        (pd.DataFrame({"x": [1j]}), TypeError, "got complex128"),
    ],
)
def test_a_table_that_could_not_come_back_is_refused(frame, error, match):
    with pytest.raises(error, match=match):
        encode_cell(CellResult({"t": frame}))
