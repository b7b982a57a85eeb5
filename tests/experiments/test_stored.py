"""What a stored folder or file is said to hold, finished or not."""

import pytest
import torch

import bayes_influence as bi
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.stored import inspected
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import CHECKPOINT, run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.training.checkpoints import decode_checkpoint, encode_checkpoint

RUN = TrainRun("iris", "mlp", "weight-decay", epochs=2, width=3)


def test_a_run_says_how_far_it_is(tmp_path):
    run_training(RUN, tmp_path / "run", progress=False)
    found = inspected(tmp_path / "run")
    assert (found.kind, found.finished) == (
        "training run",
        "yes, 2 epochs, but not its report; the same command writes it",
    )
    assert found.configuration["dataset"] == "iris"
    assert found.configuration["scheme_options.weight_decay"] == "0.005"
    assert found.versions["torch"] == torch.__version__
    train_and_report(RUN, tmp_path / "run", progress=False)
    assert inspected(tmp_path / "run").finished == "yes, 2 epochs"
    state, config = decode_checkpoint((tmp_path / "run" / CHECKPOINT).read_bytes())
    (tmp_path / "run" / CHECKPOINT).write_bytes(encode_checkpoint({**state, "epoch": torch.tensor(1)}, config))
    assert inspected(tmp_path / "run").finished == "no, 1 of 2 epochs; the same command continues"
    (tmp_path / "run" / CHECKPOINT).unlink()
    assert inspected(tmp_path / "run").finished == "no, 0 of 2 epochs; the same command continues"


@pytest.mark.parametrize(
    ("study", "last", "kind"),
    [
        ("compare", "summary.csv", "comparison of schemes"),
        ("audit", "verdict.txt", "audit of influence estimates"),
        ("influence", "influence.csv", "influence of a run's training examples"),
    ],
)
def test_a_study_says_which_cells_it_has_and_whether_it_is_whole(tmp_path, study, last, kind):
    folder = StudyFolder(tmp_path / "study", {"study": study, "seed": 3, "nothing": None})
    folder.save_cell("scheme=none", {})
    found = inspected(tmp_path / "study")
    assert (found.kind, found.finished) == (kind, "no; the same command continues")
    assert found.facts["stored cells"] == "1: scheme=none"
    assert found.configuration == {"seed": "3"}
    folder.write_file(last, b"x")
    folder.write_file("failures.csv", b"x")
    again = inspected(tmp_path / "study")
    assert again.finished == "yes"
    assert again.facts["failed"].startswith("some cells did, see failures.csv")


def test_files_of_scores_and_of_networks_are_known(tmp_path):
    iris = bi.hold_out(bi.load_table("iris"))
    objective = bi.Objective(torch.nn.Linear(4, 3).double(), bi.CrossEntropy(), bi.WeightDecay(0.1))
    scores = bi.Influence(objective, iris.train, damping=1.0).on_loss(iris.test)
    scores.save(tmp_path / "scores.safetensors")
    found = inspected(tmp_path / "scores.safetensors")
    assert (found.kind, found.facts["scores"]) == ("influence scores", "120 training on 30 test examples")
    bi.save(tmp_path / "network.safetensors", objective)
    found = inspected(tmp_path / "network.safetensors")
    assert (found.kind, found.facts["class"]) == ("trained networks", "Objective")
    assert found.versions["torch"] == torch.__version__
    (tmp_path / "half.safetensors.unfinished").write_bytes(b"")
    (tmp_path / "half.safetensors.done").write_text("a\nb\n")
    assert inspected(tmp_path / "half.safetensors").finished.startswith("no, 2 blocks of them")


def test_what_is_none_of_these_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        inspected(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no study: there is no config\.json in it"):
        inspected(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt is no file of this library, or damaged"):
        inspected(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        inspected(tmp_path)
