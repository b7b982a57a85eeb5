import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.data.locks import BusyError
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.record import CHECKPOINT
from bayes_influence.experiments.training.run import epoch_seconds, load_run, load_trained, run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.moments.layers import BayesianLayer
from bayes_influence.training import prepared as prepared_module
from bayes_influence.training.checkpoints import CheckpointError, decode_checkpoint
from bayes_influence.training.dropout import DroppedLinear
from bayes_influence.training.finiteness import NonFiniteTrainingError

RUN = TrainRun("iris", "mlp", "weight-decay", seeds=(3, 4), epochs=4, batch_size=32, width=5, learning_rate=0.02)


def assert_same(one, other):
    assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())
    assert torch.equal(one.values, other.values)


@pytest.mark.parametrize("scheme", ["none", "swa", "swag", "dropout", "bnn", "mean-field-vi", "ivon"])
def test_a_stopped_run_continues_to_the_same_bits(scheme, tmp_path, monkeypatch):
    run = replace(RUN, scheme=scheme, epochs=8)
    whole, _ = run_training(run, tmp_path / "whole", progress=False)
    write = StudyFolder.write_file

    def killed(folder, name, content):
        if name == CHECKPOINT and int(decode_checkpoint(content)[0]["epoch"]) == 7:
            raise KeyboardInterrupt("killed")
        return write(folder, name, content)

    monkeypatch.setattr(StudyFolder, "write_file", killed)
    with pytest.raises(KeyboardInterrupt, match="killed"):
        run_training(run, tmp_path / "stopped", progress=False)
    monkeypatch.undo()
    state, _ = decode_checkpoint((tmp_path / "stopped" / CHECKPOINT).read_bytes())
    assert int(state["epoch"]) == 6
    resumed, _ = run_training(run, tmp_path / "stopped", progress=False)
    assert_same(resumed, whole)
    assert epoch_seconds(StudyFolder.open(tmp_path / "stopped")).index.tolist() == list(range(1, 9))
    for name in (CHECKPOINT, "config.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_bits(tmp_path):
    run = replace(RUN, scheme="bnn", epochs=300)
    code = (
        f"from bayes_influence.experiments.training.run import *; run_training({run!r}, {str(tmp_path / 'killed')!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = tmp_path / "killed" / CHECKPOINT
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state, _ = decode_checkpoint(checkpoint.read_bytes())
    assert int(state["epoch"]) < 300
    resumed, _ = run_training(run, tmp_path / "killed", progress=False)
    whole, _ = run_training(run, tmp_path / "whole", progress=False)
    assert_same(resumed, whole)


def test_buffers_are_each_seeds_own(tmp_path, monkeypatch):
    def make_network(*_):
        network = nn.Sequential(nn.Linear(4, 3))
        network.register_buffer("order", torch.randperm(4))
        network.register_forward_pre_hook(lambda module, args: args[0][:, module.order])
        return network

    monkeypatch.setattr(TrainRun, "network_for", make_network)
    run_training(RUN, tmp_path / "both", progress=False)
    alone, _ = run_training(replace(RUN, seeds=(4,)), tmp_path / "alone", progress=False)
    objective, _, _ = load_run(tmp_path / "both", index=1)
    for part in ("params", "buffers"):
        for name, value in getattr(alone.at(0), part).items():
            torch.testing.assert_close(getattr(objective, part)[name], value)


def test_a_twin_is_checked_where_it_is_trained_and_not_again_where_it_is_loaded(tmp_path, monkeypatch):
    checks = []
    monkeypatch.setattr(prepared_module, "check_twin", lambda *_: checks.append(1))
    run_training(replace(RUN, scheme="bnn"), tmp_path / "run", progress=False)
    assert len(checks) == 1
    load_run(tmp_path / "run")
    assert len(checks) == 1


@pytest.mark.parametrize(("scheme", "layer"), [("bnn", BayesianLayer), ("dropout", DroppedLinear)])
def test_a_finished_run_is_loaded_where_it_ended(scheme, layer, tmp_path):
    run = replace(RUN, scheme=scheme)
    trained, split = run_training(run, tmp_path / "run", progress=False)
    objective, again, config = load_run(tmp_path / "run", index=1)
    assert TrainRun.from_config(config) == run.resolved()
    assert isinstance(objective.network[2], layer)
    assert not objective.network.training
    assert torch.equal(again.test.ids, split.test.ids)
    assert torch.equal(objective.params["2.weight"], trained.params["2.weight"][1])
    value = objective.value(objective.params, again.train.batch())
    assert value < 0.99 * trained.values[0, 1]


def test_a_bayesian_run_starts_from_a_deterministic_one(tmp_path):
    run_training(replace(RUN, seeds=(0,)), tmp_path / "cold", progress=False)
    cold, split, _ = load_run(tmp_path / "cold")
    warm = replace(RUN, scheme="bnn", seeds=(5,), epochs=1, learning_rate=1e-9, warm_start=str(tmp_path / "cold"))
    trained, _ = run_training(warm, tmp_path / "warm", progress=False)
    torch.testing.assert_close(trained.params["0.weight"][0], cold.params["0.weight"])
    sigma = trained.params["0.weight_rho"][0].exp()
    torch.testing.assert_close(sigma, (0.1 * cold.params["0.weight"].abs()).clamp(1e-3, 1.0), rtol=1e-4, atol=0)
    outputs = trained.objective.outputs(trained.at(0).params, split.test.inputs)
    expected = cold.outputs(cold.params, split.test.inputs)
    assert (outputs.expectation.argmax(-1) == expected.argmax(-1)).all()


def test_a_run_uses_the_first_training_examples():
    split = replace(RUN, train_examples=10).split()
    assert len(split.train) == 10
    assert torch.equal(split.train.ids, RUN.split().train.ids[:10])


def test_settings_reach_the_scheme():
    assert replace(RUN, scheme_options={"weight_decay": 0.3}).resolved_scheme().weight_decay == 0.3
    options = {
        "prior": "fan-in",
        "prior_scale": 2.0,
        "likelihood": "taylor",
        "initial_sigma": 0.3,
        "regulariser_weight": 0.5,
    }
    run = replace(RUN, scheme="bnn", scheme_options=options)
    scheme = run.resolved_scheme()
    assert (scheme.prior, scheme.prior_scale, scheme.initial_sigma) == ("fan-in", 2.0, 0.3)
    assert type(scheme.likelihood).__name__ == "TaylorCategorical"
    network = scheme.prepare(RUN.network_for((4,), 3))
    objective = scheme.objective(network, 10)
    assert objective.regulariser.prior_scale["0.weight"] == 1.0
    assert objective.regulariser_weight == 0.5
    tempered = replace(RUN, scheme="bnn-tempered").resolved_scheme()
    assert (tempered.regulariser_weight, replace(RUN, scheme="bnn").resolved_scheme().regulariser_weight) == (0.1, 1.0)


@pytest.mark.parametrize(
    ("dataset", "scheme", "epochs", "batch_size", "learning_rate"),
    [("iris", "none", 300, 32, 0.002), ("mnist", "bnn", 10, 128, 0.005), ("cifar10", "mean-field-vi", 10, 128, 0.005)],
)
def test_what_is_not_said_depends_on_data_and_scheme(dataset, scheme, epochs, batch_size, learning_rate):
    run = TrainRun(dataset, "mlp", scheme)
    schedule = run.schedule()
    assert (schedule.epochs, schedule.batch_size, schedule.learning_rate) == (epochs, batch_size, learning_rate)
    assert TrainRun.from_config(run.to_config()) == run.resolved()
    assert replace(run, scheme="none").schedule().learning_rate == 0.002


def test_what_is_usual_depends_on_what_the_data_are():
    table, images = replace(RUN, scheme="bnn"), TrainRun("mnist", "lenet", "bnn")
    assert table.resolved_scheme().prior == "isotropic"
    assert table.resolved().activation == "tanh"
    assert isinstance(table.network_for((4,), 3)[1], nn.Tanh)
    assert images.resolved_scheme().prior == "fan-in"
    assert images.resolved().activation is None
    assert TrainRun("mnist", "mlp", "bnn").resolved().activation == "tanh"
    assert replace(table, activation="relu").resolved().activation == "relu"
    assert table.resolved_scheme().initial_sigma == images.resolved_scheme().initial_sigma == 0.2


def test_moments_are_what_the_network_is_usually_trained_under_unless_they_are_said():
    lenet = TrainRun("mnist", "lenet", "bnn-tempered", activation="relu")
    usual = {"method": "exact", "structure": "calibrated-covariance"}
    assert lenet.to_config()["scheme_options"].items() >= usual.items()
    told = replace(lenet, scheme_options={"structure": "diagonal"})
    assert (told.resolved_scheme().method, told.resolved_scheme().structure) == ("exact", "diagonal")
    assert TrainRun.from_config(told.to_config()).resolved_scheme() == told.resolved_scheme()
    assert replace(lenet, network="vgg13").resolved_scheme().structure == "calibrated"
    assert replace(lenet, network="resnet", scheme="ivon").resolved_scheme().structure == "calibrated-covariance"
    assert replace(lenet, network="mlp").resolved_scheme().structure == "covariance"
    assert replace(RUN, scheme="bnn").resolved_scheme().structure == "diagonal"
    assert "method" not in replace(lenet, scheme="weight-decay").to_config()["scheme_options"]


def test_the_plan_says_moments_and_structure(tmp_path, caplog):
    options = {"method": "exact", "structure": "covariance"}
    run = replace(RUN, scheme="bnn", scheme_options=options, epochs=1, seeds=(3,))
    with caplog.at_level(logging.INFO):
        run_training(run, tmp_path / "run", progress=False)
        run_training(replace(RUN, epochs=1), tmp_path / "plain", progress=False)
    assert "86 parameters, scheme bnn (exact moments, structure covariance); 1 epochs of" in caplog.text
    assert "43 parameters, scheme weight-decay; 1 epochs of" in caplog.text


def test_a_configuration_says_the_schemes_numbers_also_where_they_are_its_own():
    assert RUN.to_config()["scheme_options"] == {"regulariser_weight": 1.0, "weight_decay": 0.005}
    bayesian = replace(RUN, scheme="bnn", scheme_options={"likelihood": "evi"})
    assert bayesian.to_config()["scheme_options"] == {
        "regulariser_weight": 1.0,
        "prior_scale": 1.0,
        "prior": "isotropic",
        "method": "first-order",
        "structure": "diagonal",
        "initial_sigma": 0.2,
        "likelihood": "evi",
    }
    assert TrainRun.from_config(bayesian.to_config()).resolved_scheme() == bayesian.resolved_scheme()


@pytest.mark.parametrize("network", ["lenet", "vgg11", "resnet"])
def test_convolutional_networks_are_built_for_images_and_refuse_tables(network):
    width = 4 if network == "resnet" else None
    run = replace(RUN, dataset="mnist", network=network, width=width, activation="relu")
    if network != "vgg11":
        assert run.network_for((1, 28, 28), 10).input_shape == (1, 28, 28)
    with pytest.raises(ValueError, match=f"{network} takes images"):
        replace(run, dataset="iris").network_for((4,), 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "imagenet"}, "unknown dataset 'imagenet'; known: iris"),
        ({"network": "vgg12"}, "unknown network 'vgg12'; known: mlp, lenet"),
        ({"scheme": "ridge"}, "unknown scheme ridge; known: none"),
        ({"scheme": "ivon", "optimiser": "sgd"}, "the scheme ivon has an optimiser of its own, got optimiser 'sgd'"),
        ({"optimiser": "lion"}, "unknown optimiser 'lion'; known: adam, sgd"),
        ({"scheme": "bnn", "scheme_options": {"likelihood": "probit"}}, "unknown likelihood 'probit'; known: tilted"),
        ({"scheme_options": {"prior": "fan-in"}}, "no option prior to choose; schemes that have it: bnn, bnn-temp"),
        ({"scheme_options": {"priors": "fan-in"}}, "no option priors to choose; no scheme has one of that name"),
        ({"seeds": ()}, r"seeds must be one or more different numbers from 0 on, got \(\)"),
        ({"seeds": (1, 1)}, r"got \(1, 1\)"),
        ({"train_examples": 0}, "train_examples must be at least 1, got 0"),
        ({"epochs": 0}, "epochs and batch_size must be at least 1"),
        ({"activation": "step"}, "unknown activation 'step'"),
        ({"network": "lenet"}, "lenet has no width to choose; leave width out, or choose one of mlp, resnet"),
        ({"network": "resnet", "depth": 3}, "resnet has no depth to choose; leave depth out, or choose one of mlp"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_unknown_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        replace(RUN, **settings)


def test_folders_that_hold_something_else_are_refused(tmp_path):
    run = replace(RUN, epochs=1, seeds=(3,))
    run_training(run, tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"another configuration: learning_rate is 0\.02 there and 0\.5 here"):
        run_training(replace(run, learning_rate=0.5), tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"the run has the seeds 3: index must lie in 0\.\.0, got 1"):
        load_run(tmp_path / "run", index=1)
    with pytest.raises(FileNotFoundError, match="holds no study"):
        load_run(tmp_path / "nothing")
    StudyFolder(tmp_path / "study", {"study": "compare"})
    with pytest.raises(ValueError, match="a study of another kind"):
        load_trained(tmp_path / "study")
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"partial")
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: the checkpoint cannot be used"):
        load_run(tmp_path / "run")
    (tmp_path / "run" / CHECKPOINT).unlink()
    with pytest.raises(ValueError, match="has finished 0 of 1 epochs"):
        load_run(tmp_path / "run")


def before_structures(monkeypatch):
    """Runs say of their scheme what they said before a structure could be chosen."""
    genuine = TrainRun.to_config

    def to_config(run):
        config = genuine(run)
        return config | {"scheme_options": {n: v for n, v in config["scheme_options"].items() if n != "structure"}}

    monkeypatch.setattr(TrainRun, "to_config", to_config)


def test_a_run_of_before_structures_is_loaded_as_a_diagonal_one_and_not_continued(tmp_path, monkeypatch):
    run = replace(RUN, scheme="bnn", seeds=(3,), epochs=2, scheme_options={"method": "exact"})
    with monkeypatch.context() as patch:
        before_structures(patch)
        trained, split = run_training(run, tmp_path / "run", progress=False)
    assert '"structure"' not in (tmp_path / "run" / "config.json").read_text()
    objective, _, config = load_run(tmp_path / "run")
    assert config["scheme_options"]["structure"] == "diagonal"
    assert objective.network[0].approximation.structure == "diagonal"
    outputs = objective.outputs(objective.params, split.test.inputs)
    assert torch.equal(outputs.variance, trained.at(0).outputs(objective.params, split.test.inputs).variance)
    with pytest.raises(ValueError, match=r"scheme_options\.structure is absent there and diagonal here. Choose"):
        run_training(run, tmp_path / "run", progress=False)


def test_a_run_warmed_up_by_another_one_than_before_is_not_continued(tmp_path):
    cold, warm = replace(RUN, seeds=(0,)), replace(RUN, scheme="bnn", seeds=(5,), warm_start=str(tmp_path / "cold"))
    run_training(cold, tmp_path / "cold", progress=False)
    run_training(warm, tmp_path / "warm", progress=False)
    load_run(tmp_path / "warm")
    shutil.rmtree(tmp_path / "cold")
    run_training(replace(cold, epochs=5), tmp_path / "cold", progress=False)
    for again in (lambda: run_training(warm, tmp_path / "warm", progress=False), lambda: load_run(tmp_path / "warm")):
        with pytest.raises(CheckpointError, match=r"of another training: warm_start_params is '\w+' there and '\w+'"):
            again()


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path):
    folder = StudyFolder(tmp_path, {"study": "train", **RUN.to_config()})
    with folder.writing(), pytest.raises(BusyError, match="another process is writing the study folder"):
        run_training(RUN, tmp_path, progress=False)
    run_training(RUN, tmp_path, progress=False)


def test_damaged_times_are_left_out_and_nothing_else(tmp_path):
    trained, _ = run_training(RUN, tmp_path, progress=False)
    path = tmp_path / "cells" / "seconds.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert epoch_seconds(StudyFolder.open(tmp_path)).empty
    again, _ = run_training(RUN, tmp_path, progress=False)
    assert_same(again, trained)


def test_a_run_of_another_structure_is_not_continued_nor_its_checkpoint_taken(tmp_path):
    run = replace(RUN, scheme="bnn", epochs=1, seeds=(3,))
    other = replace(run, scheme_options={"structure": "calibrated"})
    run_training(run, tmp_path / "diagonal", progress=False)
    with pytest.raises(ValueError, match=r"scheme_options\.structure is diagonal there and calibrated here"):
        run_training(other, tmp_path / "diagonal", progress=False)
    run_training(other, tmp_path / "calibrated", progress=False)
    shutil.copy(tmp_path / "diagonal" / CHECKPOINT, tmp_path / "calibrated" / CHECKPOINT)
    with pytest.raises(CheckpointError, match="structure"):
        load_run(tmp_path / "calibrated")


def test_variances_that_overflow_are_named_where_training_meets_them(tmp_path):
    run = replace(RUN, scheme="bnn", epochs=1, seeds=(3,), scheme_options={"initial_sigma": 1e25})
    with pytest.raises(
        NonFiniteTrainingError, match=r"bnn, seed 3: the objective became .* use a smaller initial scale"
    ):
        run_training(run, tmp_path / "run", progress=False)
