import pytest

from bayes_influence.experiments.papers.fragility.image_settings import NETWORKS, SCALES, ImageStudy


def test_the_networks_are_the_paper_s():
    full = SCALES["full"]
    assert full.repeats == 10
    assert {NETWORKS[name].width for name in full.networks if NETWORKS[name].network == "mlp"} == {8, 16, 32, 64, 128}
    assert {(one.dataset, one.network, one.scheme) for one in map(NETWORKS.get, full.networks) if not one.small} == {
        ("mnist", "lenet", "weight-decay"),
        ("mnist", "lenet", "bnn"),
        ("cifar10", "lenet", "weight-decay"),
        ("cifar10", "lenet", "bnn"),
        ("cifar10", "vgg13", "weight-decay"),
    }
    assert [name for name, one in NETWORKS.items() if one.slow] == ["MNIST LeNet", "MNIST LeNet BNN"]


def test_cells_are_networks_times_seeds_trained_as_published():
    cells = ImageStudy(networks=("MNIST FC-8", "MNIST LeNet BNN"), repeats=2, seed=3).cells()
    assert list(cells) == [
        "network=MNIST_FC-8,seed=3",
        "network=MNIST_FC-8,seed=4",
        "network=MNIST_LeNet_BNN,seed=3",
        "network=MNIST_LeNet_BNN,seed=4",
    ]
    first, last = cells["network=MNIST_FC-8,seed=4"].run(), cells["network=MNIST_LeNet_BNN,seed=4"].run()
    assert (first.width, first.activation, first.seeds) == (8, "relu", (4,))
    assert first.scheme_options == {"weight_decay": 1e-3}
    assert (first.batch_size, first.learning_rate, first.epochs, first.train_examples) == (1024, 1e-3, 6, 10_000)
    assert (last.scheme, last.learning_rate) == ("bnn", None)
    scheme = last.resolved_scheme()
    assert (scheme.method, scheme.structure, scheme.prior) == ("first-order", "diagonal", "fan-in")


def test_batches_and_rates_that_are_said_are_trained_with_and_belong_to_a_folder():
    said = ImageStudy(networks=("CIFAR-10 VGG13",), repeats=1, batch_size=50, learning_rate=3e-4)
    (cell,) = said.cells().values()
    assert (cell.run().batch_size, cell.run().learning_rate) == (50, 3e-4)
    usual = ImageStudy().configuration()
    assert said.configuration() == usual | {"batch_size": 50, "learning_rate": 3e-4}


def test_networks_and_seeds_may_be_added_to_a_folder_but_not_another_mode():
    some, more = ImageStudy(networks=("MNIST FC-8",)), ImageStudy(networks=("MNIST LeNet",), repeats=9, seed=2)
    assert some.configuration() == more.configuration()
    assert some.configuration() != ImageStudy(mode="as-published").configuration()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ("VGG",)}, "unknown network 'VGG'; known: digits FC-8"),
        ({"mode": "right"}, "unknown mode 'right'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0"),
        ({"removals": 2}, "removals must be at least 3, got 2"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageStudy(**options)
