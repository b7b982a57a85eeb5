"""What a stored folder or file is said to hold, finished or not."""

import subprocess
import sys

import pytest
import torch

import bayes_influence as bi
from bayes_influence.data.packed import packed
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.record import CHECKPOINT, CONFIG
from bayes_influence.experiments.stored import inspected
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import run_training
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
    (tmp_path / "bad").mkdir()
    for name in (CONFIG, CHECKPOINT):
        (tmp_path / "bad" / name).write_bytes((tmp_path / "run" / name).read_bytes())
    for content, why in ((b"half", "truncated"), (packed("thing", {}, {}), "it is no checkpoint")):
        (tmp_path / "bad" / CHECKPOINT).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{CHECKPOINT} is damaged: .*{why}.*; delete it to start anew"):
            inspected(tmp_path / "bad")
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
    assert found.facts["measured"] == scores.measurement
    assert found.facts["curvature"] == f"{scores.curvature}, damping {scores.damping}, {scores.solver}"
    assert found.facts["in"] == scores.parameters
    assert found.facts["converged"] == "yes"
    bi.save(tmp_path / "network.safetensors", objective)
    found = inspected(tmp_path / "network.safetensors")
    assert (found.kind, found.facts["class"]) == ("trained networks", "Objective")
    assert found.versions["torch"] == torch.__version__
    (tmp_path / "half.safetensors.unfinished").write_bytes(b"")
    (tmp_path / "half.safetensors.done").write_text("a\nb\n")
    assert inspected(tmp_path / "half.safetensors").finished.startswith("no, 2 blocks of them")


def test_what_is_stored_is_told_without_waiting_for_torch(tmp_path):
    run_training(RUN, tmp_path / "run", progress=False)
    iris = bi.hold_out(bi.load_table("iris"))
    objective = bi.Objective(torch.nn.Linear(4, 3).double(), bi.CrossEntropy(), bi.WeightDecay(0.1))
    bi.Influence(objective, iris.train, damping=1.0).on_loss(iris.test).save(tmp_path / "scores.safetensors")
    code = f"""
import sys
from bayes_influence.cli import app
for name in ("run", "scores.safetensors"):
    app(["info", r"{tmp_path}/" + name], standalone_mode=False)
print([name for name in ("torch", "pandas", "scipy", "matplotlib", "sklearn") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "finished: yes, 2 epochs" in run.stdout
    assert "scores: 120 training on 30 test examples" in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


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
