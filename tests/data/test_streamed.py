"""A data set whose inputs stay where they are."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

import bayes_influence as bi
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.data.stream import Stream
from bayes_influence.data.streamed import StreamedDataset
from bayes_influence.training.minibatch import MinibatchSchedule, train_minibatches

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(40, 3, generator=GENERATOR)
Y = (X[:, 0] - X[:, 1] > 0).long()


class Counted(TorchDataset):
    """Items that count how many are held at a time: as many as are read in one batch."""

    def __init__(self):
        self.reads = 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.reads += 1
        return X[index], int(Y[index])


def streamed(items=None, **parts):
    return StreamedDataset(Stream(items or TensorDataset(X, Y), "toy"), **parts)


def in_memory(**parts):
    return bi.Dataset(X, Y, torch.arange(40), "toy", **parts)


def test_examples_are_those_in_memory_whatever_is_selected():
    data, held = streamed(), in_memory()
    assert torch.equal(data.inputs, X)
    assert torch.equal(data.targets, Y)
    for one, other in (
        (data.select([7, 3]), held.select([7, 3])),
        (data.at([9, 1]).without([9]), held.at([9, 1]).without([9])),
        (data.select(range(5, 20)).select([2, 1]), held.select(range(5, 20)).select([2, 1])),
        (data.to(dtype=torch.float64).select([4]), held.to(dtype=torch.float64).select([4])),
    ):
        assert one.ids.tolist() == other.ids.tolist()
        assert torch.equal(one.batch().inputs, other.batch().inputs)
        assert torch.equal(one.targets, other.targets)
        assert one.batch().inputs.dtype == other.batch().inputs.dtype
    assert data.n_classes == 2
    assert "toy" in repr(data)
    assert "40 examples of (3,) float32" in repr(data)


def test_batches_by_number_in_order_and_gathered():
    data, held = streamed(), in_memory()
    numbered = data.in_batches(16)
    assert [len(batch.targets) for batch in numbered] == [16, 16, 8] == [len(numbered[i].targets) for i in range(3)]
    assert torch.equal(numbered[-1].inputs, X[32:])
    assert [len(batch.targets) for batch in numbered[1:]] == [16, 8]
    where = torch.tensor([[3, 5], [5, 30]])
    assert torch.equal(data.gathered(where).inputs, held.gathered(where).inputs)
    assert data.gathered(where).inputs.shape == (2, 2, 3)
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        next(data.batches(0))
    with pytest.raises(IndexError):
        numbered[3]


def test_ids_and_weights_go_with_the_examples():
    weights = torch.linspace(0.5, 2, 40)
    data = streamed(ids=torch.arange(40) + 100, weights=weights)
    assert data.at(103).batch().weights.tolist() == [float(weights[3])]
    with pytest.raises(ValueError, match="ids must be one per example, 40, got 3"):
        streamed(ids=[1, 2, 3])
    with pytest.raises(ValueError, match="example ids must be unique"):
        streamed(ids=[0] * 40)
    with pytest.raises(ValueError, match="weights must be 40 real numbers"):
        streamed(weights=torch.ones(3))


def test_what_passes_is_checked():
    spoiled = X.clone()
    spoiled[11, 1] = torch.nan
    data = StreamedDataset(Stream(TensorDataset(spoiled, Y), "toy"))
    with pytest.raises(ValueError, match=r"toy: inputs must be finite.*the first is id 11"):
        list(data.batches(8))
    from_one = StreamedDataset(Stream(TensorDataset(X, Y + 1), "toy"), class_names=("a", "b"))
    with pytest.raises(ValueError, match="they count from 1"):
        list(from_one.batches(40))


def test_targets_whose_shape_varies_are_only_had_in_batches():
    items = [(torch.zeros(2), torch.zeros(2 + index % 2)) for index in range(4)]
    data = StreamedDataset(Stream(items, "ragged"))
    with pytest.raises(ValueError, match="ragged: the targets vary in shape"):
        data.targets  # noqa: B018
    assert data.select([0, 2]).batch().targets.shape == (2, 2)


def test_a_fingerprint_sees_the_items_the_ids_and_the_dtype():
    once, again = fingerprint(data=streamed()), fingerprint(data=streamed())
    assert once == again
    others = [
        StreamedDataset(Stream(TensorDataset(X, 1 - Y), "toy")),
        StreamedDataset(Stream(TensorDataset(X + 1e-6, Y), "toy")),
        streamed(ids=torch.arange(40) + 1),
        streamed().to(dtype=torch.float64),
        streamed().select(range(39)),
    ]
    assert len({once, *(fingerprint(data=other) for other in others)}) == 6


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
@pytest.mark.parametrize(
    "options", [{}, {"curvature": "ggn", "solver": "conjugate-gradients"}, {"curvature": "ekfac"}, {"solver": "lissa"}]
)
def test_scores_are_those_of_the_same_data_in_memory(parameters, options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    objective = bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.1))
    options = {"parameters": parameters, "damping": 0.5, "batch_size": 16, **options}
    tests = streamed().select([1, 30])
    scores = bi.Influence(objective, streamed(), **options).on_loss(tests)
    same = bi.Influence(objective, in_memory(), **options).on_loss(in_memory().select([1, 30]))
    assert scores.train_ids.tolist() == list(range(40))
    assert scores.test_ids.tolist() == [1, 30]
    torch.testing.assert_close(scores.values, same.values, rtol=1e-9, atol=1e-12)


def test_a_last_layer_reads_every_example_as_often_as_it_must():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    items = Counted()
    data = StreamedDataset(Stream(items, "toy"))
    items.reads = 0
    influence = bi.Influence(bi.Objective(network, bi.CrossEntropy()), data, parameters="last-layer", damping=0.1)
    influence.on_loss(in_memory().select([0]))
    assert items.reads <= 40 + 5  # once, and a few of them to see what examples look like


def test_a_training_takes_the_same_steps():
    torch.manual_seed(0)
    objective = bi.Objective(nn.Linear(3, 2), bi.CrossEntropy())
    start = {name: value.unsqueeze(0) for name, value in objective.params.items()}
    schedule = MinibatchSchedule(epochs=3, batch_size=16)
    ends = [train_minibatches(objective, start, data, schedule, seeds=[5]).params for data in (streamed(), in_memory())]
    for name in ends[0]:
        assert torch.equal(ends[0][name], ends[1][name])
        assert not torch.equal(ends[0][name], start[name])


def test_refits_of_the_last_layer_are_those_in_memory():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    objective = bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.1), parameters="last-layer")
    fitted = bi.minimum_of(objective, streamed())
    changes = [
        bi.loss_changes(bi.Minimum().refit(fitted, data, torch.tensor([3, 8])), data.select([1, 2]))
        for data in (streamed(), in_memory())
    ]
    torch.testing.assert_close(*changes)
    assert changes[0].abs().max() > 1e-6
