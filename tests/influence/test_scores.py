"""`InfluenceScores`: signs, rankings, tables and files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bayes_influence.data.sealed import UNSEALED, seal_file
from bayes_influence.influence.scores import InfluenceScores


@pytest.fixture
def scores():
    values = torch.tensor([[1.0, -2.0, 0.5, 4.0], [0.0, 3.0, -1.0, -6.0]], dtype=torch.float64)
    return InfluenceScores(
        values,
        train_ids=torch.tensor([10, 20, 30, 40]),
        test_ids=torch.tensor([7, 8]),
        damping="IdentityDamping(delta=0.1)",
        smallest_eigenvalue=0.5,
        largest_eigenvalue=4.0,
        residual_norms=torch.tensor([0.1, 0.2], dtype=torch.float64),
        gradient_norms=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64),
    )


def test_removal_is_minus_the_value_over_n(scores):
    torch.testing.assert_close(scores.removal, -scores.values / 4)


def test_error_is_residual_times_gradient_over_the_smallest_eigenvalue(scores):
    assert scores.error[1, 2] == pytest.approx(0.2 * 3.0 / 0.5)
    assert scores.condition_number == 8.0


@pytest.mark.parametrize("unknown", ["smallest_eigenvalue", "residual_norms", "gradient_norms"])
def test_error_is_unknown_where_a_part_of_it_is(scores, unknown):
    from dataclasses import replace

    assert replace(scores, **{unknown: None}).error is None


@pytest.mark.parametrize(("by", "expected"), [("magnitude", [40, 20]), ("helpful", [20, 30]), ("harmful", [40, 10])])
def test_top_ranks_removals(scores, by, expected):
    assert scores.top(2, test_id=7, by=by).tolist() == expected


def test_top_needs_no_test_id_where_there_is_one(scores):
    single = InfluenceScores(scores.values[:1], scores.train_ids, scores.test_ids[:1])
    assert single.top(1).tolist() == [40]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 5, "test_id": 7}, r"k must lie in 1\.\.4, got 5"),
        ({"k": 0, "test_id": 7}, r"k must lie in 1\.\.4, got 0"),
        ({"k": 1, "test_id": 9}, r"no test example has id 9; known: \[7, 8\]"),
        ({"k": 1}, "test_id is needed: there are 2 test examples"),
    ],
)
def test_top_refuses_what_is_not_there(scores, arguments, message):
    with pytest.raises(ValueError, match=message):
        scores.top(**arguments)


def test_table_has_a_row_per_pair(scores):
    frame = scores.to_frame()
    assert list(frame) == ["test_id", "train_id", "value", "removal", "error"]
    row = frame[(frame.test_id == 8) & (frame.train_id == 20)].iloc[0]
    assert (row.value, row.removal, row.error) == (3.0, -0.75, pytest.approx(0.8))


def test_table_without_error_bounds_has_no_such_column(scores):
    plain = InfluenceScores(scores.values, scores.train_ids, scores.test_ids)
    assert "error" not in plain.to_frame()


def test_files_keep_everything(scores, tmp_path):
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    loaded = InfluenceScores.load(path)
    for name in ("values", "train_ids", "test_ids", "error", "residual_norms", "gradient_norms"):
        torch.testing.assert_close(getattr(loaded, name), getattr(scores, name), rtol=0, atol=0)
    assert loaded.notes() == scores.notes()
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]


def test_a_file_without_bounds_has_none(scores, tmp_path):
    path = tmp_path / "scores.safetensors"
    InfluenceScores(scores.values, scores.train_ids, scores.test_ids).save(path)
    assert InfluenceScores.load(path).error is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no score file at .*nothing"):
        InfluenceScores.load(tmp_path / "nothing")


@pytest.mark.parametrize("kept", [0, 6, 100, -8])
def test_a_damaged_file_is_refused(scores, tmp_path, kept):
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"cannot be used: .*compute the scores again"):
        InfluenceScores.load(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path, {"sha256": UNSEALED})
    with pytest.raises(ValueError, match="its content does not match its checksum; compute the scores again"):
        InfluenceScores.load(path)
    seal_file(path)
    with pytest.raises(ValueError, match=r"no score file of this version, its format is None"):
        InfluenceScores.load(path)


def test_any_flipped_bit_is_noticed(scores, tmp_path):
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    content = path.read_bytes()
    for place in range(0, 8 * len(content), 37):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="cannot be used"):
            InfluenceScores.load(path)


def test_a_full_disk_leaves_what_was_there(scores, tmp_path, monkeypatch):
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    before = path.read_bytes()

    def full(tensors, name, metadata):
        Path(name).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bayes_influence.influence.scores.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        scores.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("test_id", [True, 7.5, torch.tensor([True, False])])
def test_a_test_id_is_a_whole_number(scores, test_id, as_installed):
    with pytest.raises(TypeError, match=r"ids must be whole numbers, got (booleans|float)"):
        scores.top(1, test_id)


def test_a_test_id_names_one_row(scores, as_installed):
    with pytest.raises(ValueError, match="test_id must be one id, got 2"):
        scores.top(1, scores.test_ids)
    repeated = InfluenceScores(scores.values, scores.train_ids, torch.tensor([7, 7]))
    with pytest.raises(ValueError, match="2 test examples have id 7; give each an id of its own"):
        repeated.top(1, 7)


def test_scores_are_shown_in_a_line_and_in_a_notebook():
    values = -torch.arange(60.0).reshape(12, 5)
    scores = InfluenceScores(values, torch.arange(10, 15), torch.arange(100, 112), damping="0.1", converged=False)
    assert repr(scores) == (
        "InfluenceScores(5 training on 12 test examples, measured by loss; hessian, damping 0.1, cholesky, "
        "not converged)"
    )
    page = scores._repr_html_()
    assert page.count("<tr>") == 1 + 10
    assert "<td>100</td><td>14 (+8.00e-01), 13 (+6.00e-01), 12 (+4.00e-01)</td><td>10 (+0.00e+00), 11" in page
    assert "and 2 test examples more" in page
    assert "more" not in InfluenceScores(values[:1], scores.train_ids, scores.test_ids[:1])._repr_html_()
