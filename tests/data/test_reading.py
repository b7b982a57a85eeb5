import importlib.util

import numpy as np
import pandas as pd
import pytest

from bayes_influence.data.reading import checksum, read_arrays, read_table


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def test_rows_are_numbered_from_0(written):
    frame = read_table(written("t.csv", b"a,1\n2, x\n3,y\n"))
    assert frame.to_dict("list") == {"a": [2, 3], "1": ["x", "y"]}
    assert frame.index.tolist() == [0, 1]
    assert read_table(written("t2.csv", b"a;b\n1;2\n"), ";").columns.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"a;b\n1;2\n", r"has one column, 'a;b': ';' seems to stand between its columns; say --separator ';'"),
        (b"a\tb\n1\t2\n", "a tab seems to stand between its columns"),
        ("a,b\n1,é\n".encode("latin-1"), r"is not in UTF-8 \(byte 0xe9\); save it in UTF-8"),
        (b"a,b\n1,2\n1,2,3\n", "is no table: .*every row needs as many values as there are columns"),
        (b"a,b\n1,2,3\n4,5,6\n", "its rows hold more values than its first line has names"),
        (b"\n\n", "the file has no columns"),
    ],
)
def test_what_is_no_table_is_refused(written, content, message):
    with pytest.raises(ValueError, match=message):
        read_table(written("t.csv", content))


def test_two_columns_of_one_name_are_refused(written):
    with pytest.raises(ValueError, match="has more than one column called 'a'; rename or drop all but one"):
        read_table(written("t.csv", b"a,b, a\n1,2,3\n"))
    assert list(read_table(written("t.csv", b"a,a.1\n1,2\n")).columns) == ["a", "a.1"]


def test_absent_files_are_refused(tmp_path):
    for read in (read_table, read_arrays, checksum):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.csv: there is no such file"):
            read(tmp_path / "nowhere.csv")


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_is_read_as_it_was_written(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.0], "b": ["x", "y"]})
    frame.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), frame)


def test_parquet_that_cannot_be_read_is_refused(written):
    reason = "is no Parquet file" if importlib.util.find_spec("pyarrow") else "nothing is installed that reads Parquet"
    with pytest.raises(ValueError, match=reason):
        read_table(written("t.parquet", b"no"))


def test_arrays(tmp_path, written):
    np.savez(tmp_path / "a.npz", inputs=np.eye(3), targets=np.arange(3))
    inputs, targets = read_arrays(tmp_path / "a.npz")
    assert inputs.tolist() == np.eye(3).tolist()
    assert targets.tolist() == [0, 1, 2]
    np.savez(tmp_path / "b.npz", x=np.eye(3))
    with pytest.raises(ValueError, match=r"must hold the arrays inputs and targets, got x.*; write it by np\.savez"):
        read_arrays(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", inputs=np.array(["a"]), targets=np.arange(1))
    with pytest.raises(ValueError, match="inputs must be numbers, got <U1"):
        read_arrays(tmp_path / "c.npz")
    for content in (b"no", b"PK\x03\x04 no"):
        with pytest.raises(ValueError, match="is no file of arrays"):
            read_arrays(written("d.npz", content))


def test_a_checksum_tells_contents_apart_and_of_folders_names_and_sizes(tmp_path, written):
    one = checksum(written("a.csv", b"1"))
    assert checksum(written("b.csv", b"1")) == one
    assert checksum(written("a.csv", b"2")) != one
    whole = checksum(tmp_path)
    written("c.csv", b"")
    assert checksum(tmp_path) != whole
