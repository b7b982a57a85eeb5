"""`InfluenceScores`: signs, rankings, tables and files."""

import json
import logging
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from bayes_influence.data.sealed import UNSEALED, seal_file
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.derivatives import dense_hessian, gradient, per_example_gradients
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay
from bayes_influence.training.minimum import minimum_of


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


@pytest.mark.parametrize("end", ["smallest_eigenvalue", "largest_eigenvalue"])
def test_the_condition_number_is_unknown_where_one_end_is(scores, end):
    assert replace(scores, **{end: None}).condition_number is None


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
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("bayes_influence.influence.scores.save_file", full)
    with pytest.raises(OSError, match=r"cannot be written to .* \(.*No space left on device.*\); choose a folder"):
        scores.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]
    assert path.read_bytes() == before


def test_what_is_no_file_is_not_replaced_by_one(scores, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place, kind in ((pipe, "no ordinary file"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=f"scores cannot be written to .*, which is {kind}; name a file"):
            scores.save(place)
    assert pipe.is_fifo()


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


def test_what_an_estimate_stands_on_is_measured_and_said(train, test, caplog):
    """The drift is what a Newton step to the minimum changes, and a warning names a fit that is none."""
    torch.manual_seed(0)
    unfinished = Objective(nn.Linear(3, 3).double(), CrossEntropy(), WeightDecay(0.05))
    at_minimum = minimum_of(unfinished, train)
    with caplog.at_level(logging.WARNING):
        found = Influence(at_minimum, train, damping=0.0).on_loss(test)
    assert caplog.text == ""
    assert found.stationarity < 1e-9
    assert float(found.relative_drift.max()) < 1e-6
    with caplog.at_level(logging.WARNING):
        found = Influence(unfinished, train, damping=0.0).on_loss(test)
    assert "the objective is at no minimum: its gradient norm is" in caplog.text
    caplog.clear()
    again = Influence(unfinished, train, damping=0.0)
    for asked in (test, train.select([0, 1])):
        again.on_loss(asked)
    assert len(caplog.messages) == 1  # of one objective it is said once
    slope = gradient(unfinished, train.batch())
    assert found.stationarity == pytest.approx(float(slope.norm()))
    step = -torch.linalg.solve(dense_hessian(unfinished, train.batch()), slope)
    torch.testing.assert_close(found.drift, per_example_gradients(unfinished, test.batch()) @ step)
    typical = found.removal.square().mean(dim=1).sqrt()
    torch.testing.assert_close(found.relative_drift, found.drift.abs() / typical)
    shown = f"{float(found.relative_drift.median()):.2g} times as much"
    assert f"{shown} as a removal" in repr(found)
    assert f"{shown} as removing an example" in caplog.text


def test_the_typical_drift_is_the_median_of_the_first_tests():
    """Relative drifts 1, 2, ..., 20: the median of the first 16 that torch takes is 8."""
    scores = InfluenceScores(torch.ones(20, 2), torch.arange(2), torch.arange(20), drift=torch.arange(1.0, 21) / 2)
    torch.testing.assert_close(scores.relative_drift, torch.arange(1.0, 21))
    assert scores.typical_drift == 8.0


@pytest.mark.parametrize(("name", "instead"), [("a.csv", "to_frame().to_csv(path)"), ("a.parquet", "to_parquet(path)")])
def test_scores_are_not_saved_under_the_name_of_a_table(name, instead, tmp_path):
    scores = InfluenceScores(torch.ones(1, 2), torch.arange(2), torch.arange(1))
    with pytest.raises(ValueError, match=re.escape(f"save writes a safetensors file, not {name[2:]}; take {instead}")):
        scores.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def _fitted(train, network, likelihood, regulariser):
    return minimum_of(Objective(network, likelihood, regulariser), train)


@pytest.fixture(scope="module")
def elbo(train):
    torch.manual_seed(0)
    twin = to_bayesian(nn.Linear(3, 3).double(), initial_sigma=0.3)
    return _fitted(train, twin, TiltedCategorical(), GaussianKL(len(train)))


@pytest.fixture(scope="module")
def decayed(train):
    torch.manual_seed(0)
    return _fitted(train, nn.Linear(3, 3).double(), CrossEntropy(), WeightDecay(0.05))


def doubled(outputs, targets):
    return 2 * nn.functional.cross_entropy(outputs, targets, reduction="none")


NO_MINIMA = {
    "no regulariser": lambda decayed, elbo: replace(decayed, regulariser=NoRegulariser()),
    "another weight decay": lambda decayed, elbo: replace(decayed, regulariser=WeightDecay(0.1)),
    "weight decay on a Bayesian network": lambda decayed, elbo: replace(elbo, regulariser=WeightDecay(0.05)),
    "a Bayesian network without its KL": lambda decayed, elbo: replace(elbo, regulariser=NoRegulariser()),
    "another likelihood": lambda decayed, elbo: replace(decayed, likelihood=doubled),
    "a KL of another weight": lambda decayed, elbo: replace(elbo, regulariser_weight=0.3),
}


@pytest.mark.parametrize("case", NO_MINIMA)
def test_an_objective_that_was_not_trained_is_said_to_be_at_no_minimum(train, test, decayed, elbo, case, caplog):
    for right in (decayed, elbo):
        Influence(right, train, damping=1e-3).on_loss(test)
    assert "at no minimum" not in caplog.text
    Influence(NO_MINIMA[case](decayed, elbo), train, damping=1e-3).on_loss(test)
    assert "the objective is at no minimum: its gradient norm is" in caplog.text


def test_a_kl_of_another_number_of_examples_is_said(train, test, elbo, caplog, tmp_path):
    """Also at its minimum, which is then that of another bound."""
    half = len(train) // 2
    fitted = minimum_of(replace(elbo, regulariser=GaussianKL(half)), train)
    influence = Influence(fitted, train, damping=1e-3)
    expected = f"a KL divided by n_train={half}, but there are {len(train)} training examples: it is no ELBO of theirs"
    assert expected in caplog.text
    for found in (influence.on_loss(test), influence.on_loss(test, path=tmp_path / "scores")):
        assert found.regulariser_examples == half
        assert f"no ELBO of these examples: its KL is divided by {half}" in repr(found)
        assert json.loads(found.notes())["regulariser_examples"] == half
    caplog.clear()
    for same in (elbo, replace(elbo, regulariser_weight=0.1), replace(fitted, regulariser_weight=0.5)):
        found = Influence(same, train, damping=1e-3).on_loss(test)
        assert found.regulariser_examples is None
        assert "ELBO" not in repr(found) + caplog.text


@pytest.mark.parametrize("known", [{"stationarity": 0.5}, {"drift": torch.ones(1)}])
def test_scores_that_know_half_of_it_do_not_say_how_far_the_minimum_is(known):
    scores = InfluenceScores(torch.ones(1, 2), torch.arange(2), torch.arange(1), **known)
    assert repr(scores).endswith("converged)")


def test_scores_without_a_drift_say_so(train):
    scores = InfluenceScores(torch.ones(1, 2), torch.arange(2), torch.arange(1), curvature="posterior covariance")
    with pytest.raises(ValueError, match="scores by posterior covariance do not know how far"):
        scores.relative_drift  # noqa: B018


def test_a_folder_that_is_not_there_is_told(scores, tmp_path):
    with pytest.raises(OSError, match=r"cannot be written to .*missing/scores .*; choose a folder that exists and has"):
        scores.save(tmp_path / "missing" / "scores")
