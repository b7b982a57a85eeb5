import re
import shutil

import pandas as pd
import pytest
import torch

from bayes_influence.experiments.attribution.of_run import InfluenceRequest, influence_of_run
from bayes_influence.experiments.attribution.ranking import printed_rankings
from bayes_influence.experiments.store.record import CHECKPOINT
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import load_run
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import Margin
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.training.checkpoints import decode_checkpoint, encode_checkpoint
from bayes_influence.training.minimum import minimum_of


@pytest.fixture(scope="session")
def iris_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "iris"
    run = TrainRun(dataset="iris", network="mlp", scheme="weight-decay", epochs=3, width=5)
    train_and_report(run, folder)
    return folder


def test_the_ranking_is_that_of_the_stored_scores(iris_run, tmp_path):
    _, split, _ = load_run(iris_run)
    found = influence_of_run(iris_run, tmp_path / "out", InfluenceRequest((12,), top=4), progress=False)
    scores = InfluenceScores.load(found.folder / "scores.safetensors")
    removal = scores.removal[0]
    assert scores.test_ids.tolist() == [int(split.test.ids[12])]
    helpful = found.ranking.query("kind == 'helpful'")
    assert helpful["removal"].tolist() == pytest.approx(removal.topk(4)[0].tolist())
    harmful = found.ranking.query("kind == 'harmful'")
    assert harmful["train_id"].tolist() == scores.train_ids[removal.argsort()[:4]].tolist()
    written = pd.read_csv(found.folder / "influence.csv")
    pd.testing.assert_frame_equal(written, found.ranking, check_dtype=False)
    (table,) = printed_rankings(found.ranking)
    assert len(table.rows) == 4
    assert table.title.startswith(f"test 12 (id {int(split.test.ids[12])}): ")


def test_a_run_is_brought_to_its_minimum_where_that_is_asked_for(iris_run, tmp_path):
    objective, split, _ = load_run(iris_run)
    left = influence_of_run(iris_run, tmp_path / "left", InfluenceRequest((12,)), progress=False)
    found = influence_of_run(iris_run, tmp_path / "out", InfluenceRequest((12,), polish=True), progress=False)
    train, tests = (part.to(dtype=torch.float64) for part in (split.train, split.test.select([12])))
    fitted = minimum_of(objective.taking("last-layer"), train)
    torch.testing.assert_close(found.scores.removal, Influence(fitted, train).on_loss(tests).removal)
    assert float(found.scores.relative_drift.max()) < 1e-6 < float(left.scores.relative_drift.max())
    assert found.ranking["test_loss"].iloc[0] == pytest.approx(float(fitted.losses(fitted.params, tests.batch())))
    assert left.polished == ""
    said = r"polished network 0: J, .* from .* to .*, its gradient norm from .* to \d.\de-1\d"
    assert re.fullmatch(said, found.polished)


def test_test_examples_are_described(iris_run, tmp_path):
    objective, split, _ = load_run(iris_run)
    ids = split.test.ids[[5, 2]].tolist()
    found = influence_of_run(iris_run, tmp_path / "out", InfluenceRequest((5,), tuple(ids), top=1), progress=False)
    rows = found.ranking.drop_duplicates("test")
    assert rows["test"].tolist() == [5, 2]
    assert rows["test_id"].tolist() == ids
    chosen = split.test.select([5, 2])
    losses, outputs = (
        objective.losses(objective.params, chosen.batch()),
        objective.outputs(objective.params, chosen.inputs),
    )
    assert rows["test_loss"].tolist() == pytest.approx(losses.tolist())
    names = [split.test.class_names[target] for target in outputs.argmax(dim=1).tolist()]
    assert rows["predicted_target"].tolist() == names
    assert not list(found.folder.glob("*.png"))


def test_unknown_test_examples_are_named_with_those_there_are(iris_run, tmp_path):
    _, split, _ = load_run(iris_run)
    with pytest.raises(ValueError, match="iris: no test example 30; the 30 test examples are numbered from 0 to 29"):
        influence_of_run(iris_run, tmp_path / "out", InfluenceRequest((30,)), progress=False)
    request = InfluenceRequest(test_ids=(int(split.train.ids[0]),))
    with pytest.raises(ValueError, match=rf"iris: no example has id \[{int(split.train.ids[0])}\]"):
        influence_of_run(iris_run, tmp_path / "out", request, progress=False)
    with pytest.raises(ValueError, match="needs at least one test example"):
        InfluenceRequest()


def test_more_than_there_are_cannot_be_ranked(iris_run, tmp_path):
    with pytest.raises(ValueError, match=r"top must lie in 1\.\.120, got 121"):
        influence_of_run(iris_run, tmp_path / "out", InfluenceRequest((0,), top=121), progress=False)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        influence_of_run(tmp_path, tmp_path / "out", InfluenceRequest((0,)), progress=False)


def test_influence_on_another_measurement_is_asked_for_by_name(iris_run, tmp_path):
    objective, split, _ = load_run(iris_run)
    request = InfluenceRequest((12,), top=2, measurement="margin", damping=0.1)
    found = influence_of_run(iris_run, tmp_path / "out", request, progress=False)
    influence = Influence(objective, split.train, damping=0.1, parameters="last-layer")
    expected = influence.on_measurement(Margin(), split.test.select([12])).removal
    assert torch.allclose(found.scores.removal, expected)
    assert found.ranking["removal"].iloc[0] == pytest.approx(float(expected.max()))
    with pytest.raises(ValueError, match="unknown measurement 'margins'; known: entropy, mutual-information"):
        InfluenceRequest((12,), measurement="margins")


def test_a_run_that_was_trained_anew_is_scored_anew(iris_run, tmp_path):
    """Configuration and place are the same, the parameters are not: nothing of the earlier scores is taken."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(iris_run, run)
    before = influence_of_run(run, out, InfluenceRequest((3,), damping=1.0), progress=False).scores.removal.clone()
    state, config = decode_checkpoint((run / CHECKPOINT).read_bytes())
    (run / CHECKPOINT).write_bytes(encode_checkpoint({**state, "flat": 1.5 * state["flat"]}, config))
    again = influence_of_run(run, out, InfluenceRequest((3,), damping=1.0), progress=False)
    objective, split, _ = load_run(run)
    direct = Influence(objective, split.train, damping=1.0, parameters="last-layer", curvature="hessian")
    expected = direct.on_loss(split.test.select([3])).removal
    torch.testing.assert_close(again.scores.removal, expected, rtol=1e-6, atol=1e-12)
    assert not torch.allclose(again.scores.removal, before, rtol=0.01)
    assert again.ranking.query("kind == 'helpful'")["removal"].max() == pytest.approx(float(expected.max()))
