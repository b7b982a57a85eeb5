import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from bayes_influence.data.tables import load_table
from bayes_influence.experiments.attribution.labels.of_examples import _network
from bayes_influence.experiments.attribution.labels.settings import LabelData, LabelSettings, in_minibatches
from bayes_influence.models.lenet import LeNet
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import Schedule


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"level": 0.0}, "the level of a false-discovery rate lies between 0 and 1, got 0.0"),
        ({"level": 1.0}, "the level of a false-discovery rate lies between 0 and 1, got 1.0"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"listed": 2001}, "at most 2000 rows are listed with evidence, got listed=2001"),
        ({"seeds": (1, 1)}, r"seeds must be one or more different numbers from 0 on, got \(1, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        LabelSettings(**given)


def test_a_table_is_trained_on_at_once_with_weight_decay_of_three_strengths():
    data = LabelData("iris")
    assert data.schedule(150) == Schedule(200, 0.02)
    assert [scheme.regulariser_weight * scheme.weight_decay for scheme in data.schemes(150)] == pytest.approx(
        [0.003, 0.01, 0.03]
    )
    examples = data.examples()
    assert len(examples) == 150
    torch.testing.assert_close(examples.inputs.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("data", "passes", "size"),
    [
        (LabelData("iris", batch_size=16), 300, 16),
        (LabelData("mnist"), 214, 64),
        (LabelData("mnist", epochs=3), 3, 64),
    ],
)
def test_other_trainings_are_in_minibatches_with_one_strength(data, passes, size):
    assert data.schedule(150) == MinibatchSchedule(passes, size, 0.005, decay="cosine")
    assert [scheme.regulariser_weight * scheme.weight_decay for scheme in data.schemes(150)] == [0.001]


def test_a_scheme_that_is_named_has_the_options_that_it_usually_has():
    (scheme,) = LabelData("mnist", network="lenet", activation="relu", scheme="bnn").schemes(150)
    assert (scheme.prior, scheme.initial_sigma) == ("fan-in", 0.2)
    assert (scheme.method, scheme.structure) == ("exact", "calibrated-covariance")
    (scheme,) = LabelData("iris", scheme="bnn").schemes(150)
    assert (scheme.prior, scheme.method, scheme.structure) == ("isotropic", "first-order", "diagonal")


@pytest.mark.parametrize(("examples", "passes"), [(90, 300), (1000, 32), (3200, 10), (3199, 11), (10**6, 10)])
def test_trainings_in_minibatches_take_some_steps_at_least(examples, passes):
    assert in_minibatches(examples) == MinibatchSchedule(passes, 64, 0.005, decay="cosine")


def test_a_network_of_ones_own_is_trained_in_minibatches_as_in_python(tmp_path, monkeypatch):
    (tmp_path / "own_net_of_labels.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Linear(4, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = LabelData("iris", network="own_net_of_labels:Net")
    assert not data.at_once(150)
    assert data.schedule(150) == in_minibatches(150)
    assert len(data.schemes(150)) == 1


def test_many_rows_are_trained_on_in_minibatches():
    assert isinstance(LabelData("iris").schedule(20_001), MinibatchSchedule)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_image_sets_are_searched_with_a_lenet_of_relus(name):
    data = LabelData(name)
    shape = data.known().image_shape
    network = data.network_for(shape, 10)
    assert isinstance(network, LeNet)
    assert network.input_shape == shape
    assert isinstance(network[1], nn.ReLU)
    assert (data.to_config()["network"], data.to_config()["activation"]) == ("lenet", "relu")
    assert LabelData(name, network="mlp").network == "mlp"
    assert isinstance(LabelData(name, activation="tanh").network_for(shape, 10)[1], nn.Tanh)
    assert LabelData.from_config(data.to_config()).to_config() == data.to_config()


@pytest.mark.parametrize(("side", "network"), [(28, "lenet"), (32, "lenet"), (30, "mlp")])
def test_images_of_the_sizes_of_a_lenet_are_searched_with_it(tmp_path, side, network):
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(2):
            pixels = random.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    np.savez(tmp_path / "photos.npz", inputs=np.zeros((4, 3, side, side)), targets=np.arange(4) % 2)
    for path in ("photos", "photos.npz"):
        data = LabelData(str(tmp_path / path))
        assert (data.known().image_shape, data.network) == ((3, side, side), network)
        assert data.schedule(3000) == in_minibatches(3000)
        assert len(data.schemes(4)) == 1


def test_images_that_are_no_square_and_rows_are_searched_with_an_mlp(tmp_path):
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((4, 3, 28, 32)), targets=np.arange(4) % 2)
    np.savez(tmp_path / "rows.npz", inputs=np.zeros((4, 28)), targets=np.arange(4) % 2)
    assert [LabelData(str(tmp_path / f"{name}.npz")).network for name in ("wide", "rows")] == ["mlp", "mlp"]
    assert LabelData(str(tmp_path / "rows.npz")).at_once(4)
    assert LabelData("iris").network == "mlp"


@pytest.mark.parametrize(("values", "task"), [([0.5, 1.5, 2.5], None), ([1, 2, 3], "regression")])
def test_amounts_are_refused(tmp_path, values, task):
    path = tmp_path / "amounts.csv"
    pd.DataFrame({"a": range(30), "y": values * 10}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"one class, but real numbers are predicted here; say task="):
        LabelData(str(path), target=("y",), task=task)


def test_labels_of_an_example_are_refused(tmp_path):
    path = tmp_path / "labels.npz"
    np.savez(path, inputs=np.zeros((4, 2)), targets=np.array([[0, 1], [1, 0], [1, 1], [0, 0]]))
    with pytest.raises(ValueError, match="but several labels of 0 and 1 are predicted here"):
        LabelData(str(path))


def test_a_command_searches_with_the_network_that_the_rates_were_measured_with():
    data, frame = LabelData("iris"), load_table("iris")
    network = data.network_for((4,), 3)
    assert repr(network) == repr(_network(frame))
    assert (network[0].out_features, type(network[1])) == (32, nn.ReLU)
    assert isinstance(LabelData("iris", activation="tanh").network_for((4,), 3)[1], nn.Tanh)
