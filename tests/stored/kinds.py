"""Everything that is stored, each kind with a function that makes it, or goes on with what is there, in a folder."""

import gzip
from dataclasses import replace
from hashlib import sha256
from unittest import mock

import numpy as np
import pandas as pd
import torch

import bayes_influence as bi
from bayes_influence.data import download
from bayes_influence.data.download import Source, SourceFile
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.experiments.audit.ground_truth.stored_refits import stored_refits
from bayes_influence.experiments.audit.ground_truth.subsets import retrain_on_subsets
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import DRAWINGS, Drawing
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.experiments.training.run import load_trained, run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.experiments.training.side_by_side import history_figure

RUN = TrainRun("iris", "mlp", "weight-decay", epochs=2, batch_size=64, width=3, learning_rate=0.02)
DATA = logistic_classes(34, n_features=3, n_classes=3, seed=1).dataset.to(dtype=torch.float64)
TRAIN, TEST = DATA.select(range(30)), DATA.select(range(30, 34))
CONTENT = np.random.default_rng(0).bytes(3000)
SOURCE = Source("toy", (SourceFile("numbers", sha256(CONTENT).hexdigest()),), mirrors=("http://mirror/",))


def objective():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 3).double()
    return bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.1))


AT_MINIMUM = bi.minimum_of(objective(), TRAIN)


def influence():
    return bi.Influence(AT_MINIMUM, TRAIN, damping=0.0, batch_size=10)


def run(folder):
    trained, _ = run_training(RUN, folder, progress=False)
    loaded, _, _ = load_trained(folder)
    assert torch.equal(loaded.values, trained.values)
    return torch.cat([loaded.params[name].reshape(-1) for name in sorted(loaded.params)])


def _squared(number):
    return CellResult({"results": pd.DataFrame({"square": [number**2]})}, {"root": np.array([number])})


def cells(folder):
    store = StudyFolder(folder, {"study": "squares"})
    run_cells({f"number={number}": number for number in (2, 3)}, _squared, store, progress=False)
    return torch.tensor(store.table("results")["square"].to_numpy())


def refits(folder):
    removed = TRAIN.ids[:2]
    found = stored_refits(bi.Minimum(), AT_MINIMUM, TRAIN, removed, folder, per_cell=1, progress=False)
    return torch.cat([found.params[name].reshape(-1) for name in sorted(found.params)])


def subsets(folder):
    protocol = bi.Minimum()
    found = retrain_on_subsets(AT_MINIMUM, TRAIN, TEST, protocol, folder, n_subsets=3, fraction=0.8, progress=False)
    return torch.from_numpy(found.losses)


def saved_scores(folder):
    path = folder / "scores.safetensors"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        influence().on_loss(TEST).save(path)
    return bi.InfluenceScores.load(path).removal.clone()


def streamed_scores(folder):
    folder.mkdir(exist_ok=True)
    return influence().on_loss(TEST, folder / "scores.safetensors").removal.clone()


def downloads(folder):
    folder.mkdir(parents=True, exist_ok=True)

    def transfer(url, path):
        path.write_bytes(gzip.compress(CONTENT, mtime=0))

    with mock.patch.object(download, "_transfer", transfer):
        return SOURCE.contents(folder)["numbers"]


def table(folder):
    frame = pd.DataFrame({"seed": range(40), "loss": np.arange(40) / 3})
    return StudyFolder(folder, {"study": "table"}).write_table("results", frame).read_bytes()


def figure(folder):
    curve = pd.DataFrame({"seed": [0, 0], "epoch": [1, 2], "objective": [0.5, 0.4], "train_accuracy": [0.7, 0.8]})
    save_figure(Drawing(history_figure, ({"none": curve}, "line")), StudyFolder(folder, {"study": "figure"}), "line")
    files = ("line.png", "line.pdf", f"{DRAWINGS}/line.safetensors")
    return b"".join((folder / file).read_bytes() for file in files)


def page(folder):
    folder.mkdir(exist_ok=True)
    scores = influence().on_loss(replace(TEST, name="test"))
    scores.show(2).save(folder / "shown.html")
    return (folder / "shown.html").read_bytes()


KINDS = {
    one.__name__: one
    for one in (run, cells, refits, subsets, saved_scores, streamed_scores, downloads, table, figure, page)
}
