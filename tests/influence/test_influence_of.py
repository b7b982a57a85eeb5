"""A model that somebody else trained, in three lines."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.data import DataLoader, Dataset

import bayes_influence as bi
from bayes_influence.influence.problem import BATCH_SIZE

GENERATOR = torch.Generator().manual_seed(2)
X = torch.randn(60, 3, generator=GENERATOR)
Y = (X[:, 0] + 0.5 * torch.randn(60, generator=GENERATOR) > 0).long()
DECAY = 0.05


class Items(Dataset):
    """What a loop trains on."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return X[index], int(Y[index])


def trained(without=None):
    """Ordinary full-batch training to its end, with the optimiser's own weight decay."""
    keep = torch.tensor([index for index in range(60) if index != without])
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimiser = torch.optim.LBFGS(network.parameters(), max_iter=500, tolerance_grad=1e-9, tolerance_change=0)

    def closure():
        optimiser.zero_grad()
        losses = F.cross_entropy(network(X[keep]), Y[keep], reduction="sum") / 60
        value = losses + DECAY / 2 * sum(p.square().sum() for p in network.parameters())
        value.backward()
        return value

    optimiser.step(closure)
    return network


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), F.cross_entropy, bi.CrossEntropy()])
def test_scores_foretell_what_the_loop_itself_gives_without_an_example(loss):
    network = trained()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    loader = DataLoader(Items(), batch_size=16, shuffle=True)
    scores = bi.Influence.of(network, loss, loader, weight_decay=DECAY, damping=0.0).on_loss(loader)
    assert scores.train_ids.tolist() == scores.test_ids.tolist() == list(range(60))
    assert scores.relative_drift.max() < 1e-2
    before = F.cross_entropy(network(X), Y, reduction="none")
    for example in (0, 17, 41):
        with torch.no_grad():
            change = F.cross_entropy(trained(without=example)(X), Y, reduction="none") - before
        estimate = scores.removal[:, example]
        assert torch.corrcoef(torch.stack([estimate.float(), change]))[0, 1] > 0.99
        assert estimate[example] > 0
        assert change[example] > 0
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network.training


def test_the_last_layer_is_taken_unless_others_are_named():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert bi.Influence.of(network, F.cross_entropy, (X, Y), damping=0.1).problem.size == 10
    assert bi.Influence.of(network, F.cross_entropy, (X, Y), damping=1.0, parameters="all").problem.size == 26


def test_the_loaders_batch_size_is_used_where_the_whole_network_is_asked():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def batch_size(data, **options):
        return bi.Influence.of(network, F.cross_entropy, data, damping=1.0, **options).problem.batch_size

    loader = DataLoader(Items(), batch_size=7)
    assert batch_size(loader, parameters="all") == 7
    assert batch_size(loader) == BATCH_SIZE  # the last layer alone
    assert batch_size(DataLoader(Items(), batch_size=2 * BATCH_SIZE)) == 2 * BATCH_SIZE
    assert batch_size(loader, batch_size=9) == batch_size((X, Y), batch_size=9) == 9


def test_what_is_no_model_no_loss_or_no_data_is_refused(as_installed):
    with pytest.raises(TypeError, match=r"an objective needs a network, an nn.Module, got str"):
        bi.Influence.of("resnet", F.cross_entropy, (X, Y))
    with pytest.raises(TypeError, match=r"a loss must be a module or a function .* got 'ce'"):
        bi.Influence.of(nn.Linear(3, 2), "ce", (X, Y))
    with pytest.raises(TypeError, match=r"the training examples must be a Dataset, .* got str"):
        bi.Influence.of(nn.Linear(3, 2), F.cross_entropy, "mnist")
    with pytest.raises(TypeError, match=r"the test examples must be a Dataset, .* got None"):
        bi.Influence.of(nn.Linear(3, 2), F.cross_entropy, (X, Y)).on_loss(None)


class OwnState(nn.Module):
    """A recurrent network that makes its first state itself, in the dtype of its parameters or in torch's default."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.cell, self.head, self.own = nn.LSTM(3, 2, batch_first=True), nn.Linear(2, 2), own

    def forward(self, x):
        state = torch.zeros(1, len(x), 2, dtype=torch.float32 if self.own else x.dtype)
        return self.head(self.cell(x.unsqueeze(1), (state, state))[0][:, -1])


def test_a_network_of_its_own_dtype_is_computed_in_that_or_refused_in_words():
    data = (torch.linspace(-1, 1, 12).reshape(4, 3), torch.tensor([0, 1, 0, 1]))
    options = {"parameters": "all", "damping": 5.0}
    own = OwnState(own=True)
    with pytest.raises(ValueError, match=r"computes in torch\.float32 and not in .*pass dtype=torch\.float32"):
        bi.Influence.of(own, nn.CrossEntropyLoss(), data, **options)
    following = OwnState(own=False)
    following.load_state_dict(own.state_dict())
    narrow = bi.Influence.of(own, nn.CrossEntropyLoss(), data, dtype=torch.float32, **options).on_loss(data)
    wide = bi.Influence.of(following, nn.CrossEntropyLoss(), data, **options).on_loss(data)
    torch.testing.assert_close(narrow.values.double(), wide.values, rtol=1e-3, atol=1e-6)


def test_it_says_what_it_is_of():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    assert repr(bi.Influence.of(network, F.cross_entropy, (X, Y), damping=0.5)) == (
        "Influence(60 training examples, in 10 of 26 parameters: 2.weight, 2.bias; Hessian(), damping "
        "IdentityDamping(delta=0.5))"
    )
