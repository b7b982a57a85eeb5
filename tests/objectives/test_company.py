import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import bayes_influence as bi
from bayes_influence.objectives import company as companies
from bayes_influence.objectives.company import check_targets, first_outputs, numbers_per_example
from bayes_influence.objectives.reduction import reduce


def data(length, inputs=None):
    inputs = torch.arange(length).double().unsqueeze(1) if inputs is None else inputs
    return bi.Dataset(inputs, torch.arange(length) % 2, torch.arange(length), "train")


def check(network, examples=None, parameters="all"):
    return reduce(bi.Objective(network.double(), bi.CrossEntropy(), parameters=parameters), examples or data(64))


class Centred(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class MixesSome(nn.Linear):
    """Examples beyond a bound are centred among themselves: of 24 these are two."""

    def forward(self, x):
        large = x[:, 0] > 21
        return super().forward(torch.where(large.unsqueeze(1), x - x[large].mean(0), x) if large.any() else x)


class MixesTwo(nn.Linear):
    """The same without a branch, which torch can batch."""

    def forward(self, x):
        large = (x < 2).to(x.dtype)
        return super().forward(x - large * (x * large).sum(0) / large.sum(0).clamp(min=1))


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_losses_of_their_own_pass_and_others_are_refused(parameters):
    check(nn.Linear(1, 2), parameters=parameters)
    check(nn.Linear(1, 2), data(1), parameters)
    for network, length in ((Centred(1, 2), 64), (MixesSome(1, 2), 24), (MixesTwo(1, 2), 24)):
        with pytest.raises(ValueError, match=r"train: the loss of an example depends on the other examples of its "):
            check(network, data(length), parameters)
    with pytest.raises(ValueError, match="train: 64 of 64 losses are not finite"):
        check(Infinite(), parameters=parameters)


def test_many_examples_are_evaluated_alone_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(companies, "FEW_NUMBERS", 0)
    network = nn.Sequential(MixesTwo(1, 2), nn.Linear(2, 2))
    check(network, data(24), "last-layer")  # two of 24, neither of them in the sample
    with pytest.raises(ValueError, match=r"depends on the other examples of its batch: .* among 24, .* among 1\."):
        check(network, data(24), "all")


class TakesPairs(nn.Linear):
    """Refuses a single example, as layers with a `squeeze` do."""

    def forward(self, x):
        if len(x) == 1:
            raise ValueError("at least two")
        return super().forward(x)


def test_a_network_that_takes_no_single_example_is_held_against_itself_in_groups():
    assert check(TakesPairs(1, 2), data(32)).is_head


class Infinite(nn.Linear):
    def __init__(self):
        super().__init__(1, 2)

    def forward(self, x):
        return super().forward(x) * torch.inf


def test_test_examples_pass_by_the_same_checks():
    reduction = check(MixesSome(1, 2), data(20))
    with pytest.raises(ValueError, match="tests: the loss of an example depends on the other examples"):
        reduction.features_of(
            bi.Dataset(torch.full((4, 1), 30.0) + torch.eye(4)[:, :1], torch.ones(4).long(), torch.arange(4), "tests")
        )


class KeepsFirst(nn.Linear):
    """Centres by the mean of the first examples that it sees."""

    def __init__(self):
        super().__init__(1, 2)
        self.centre = None

    def forward(self, x):
        if self.centre is None:
            self.centre = x.mean(0)
        return super().forward(x - self.centre)


class KeepsInAList(KeepsFirst):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        if not self.seen:
            self.seen.append(x.mean(0))
        return nn.Linear.forward(self, x - self.seen[0])


class KeepsInABuffer(KeepsFirst):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("set", torch.tensor(0))

    def forward(self, x):
        if not self.set:
            self.mean.copy_(x.mean(0))
            self.set.fill_(1)
        return nn.Linear.forward(self, x - self.mean)


class KeepsInANewBuffer(KeepsFirst):
    def __init__(self):
        super().__init__()
        del self.centre
        self.register_buffer("centre", None)


class Looks(nn.Linear):
    """Keeps what it saw for whoever wants to look at it."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
@pytest.mark.parametrize(
    ("network", "name"),
    [(KeepsFirst, "centre"), (KeepsInAList, "seen"), (KeepsInABuffer, "mean, set"), (KeepsInANewBuffer, "centre")],
)
def test_a_network_that_keeps_what_it_saw_first_is_refused(network, name, parameters):
    with pytest.raises(ValueError, match=f"the network keeps {name} from its first calls, on which the losses depend"):
        check(network(), data(64), parameters)


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_what_was_kept_before_is_the_networks_and_what_is_only_looked_at_does_no_harm(parameters):
    network = KeepsFirst().double()
    network(data(5).inputs)
    reduction = check(network, parameters=parameters)
    assert reduction.members.objective.network.centre.tolist() == [2.0]
    looking = check(Looks(1, 2), parameters=parameters)
    assert not hasattr(looking.members.objective.network, "last")


class Counts(nn.Module):
    """The mean over tokens, those of the padding among them unless they are masked."""

    def __init__(self, masked):
        super().__init__()
        self.embedding, self.head, self.masked = nn.Embedding(7, 3), nn.Linear(3, 2), masked

    def forward(self, tokens):
        counted = (tokens > 0).unsqueeze(-1) if self.masked else torch.ones_like(tokens).unsqueeze(-1)
        return self.head((self.embedding(tokens) * counted).sum(1) / counted.sum(1))


def padded(pairs):
    return nn.utils.rnn.pad_sequence([one for one, _ in pairs], batch_first=True), torch.tensor([y for _, y in pairs])


SENTENCES = [(torch.arange(1, 2 + number % 5), number % 2) for number in range(12)]


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_padding_that_counts_is_refused_and_padding_that_is_masked_is_not(parameters):
    sentences = bi.as_dataset(DataLoader(SENTENCES, batch_size=12, collate_fn=padded), "sentences")
    check(Counts(masked=True), sentences, parameters)
    with pytest.raises(ValueError, match=r"sentences: the loss of .* as the collate function makes it"):
        check(Counts(masked=False), sentences, parameters)


def test_a_few_examples_before_long_work_leave_nothing_behind():
    network = KeepsFirst().double()
    objective = bi.Objective(network, bi.CrossEntropy())
    outputs = first_outputs(objective, data(2).inputs)
    assert objective.network.centre is None
    torch.testing.assert_close(outputs, nn.Linear.forward(network, data(2).inputs - 0.5).detach())


def test_targets_are_held_against_what_the_likelihood_says_of_the_outputs():
    objective = bi.Objective(nn.Linear(1, 2).double(), bi.CrossEntropy())
    check_targets(objective, data(4))
    wrong = bi.Dataset(data(3).inputs, torch.tensor([0, 1, 2]), torch.tensor([4, 5, 6]), "train")
    with pytest.raises(ValueError, match=r"train: CrossEntropy needs classes in 0\.\.1, .* the first is id 6"):
        check_targets(objective, wrong)


class Moves(nn.Module):
    """In a company of three, the ninety-sixth example's loss moves three times as much as the others'."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        moved = torch.where(x == 95, 0.3, torch.where(x == 63, 0.1, -0.1))
        return (2 - x / 99 + (moved if len(x) == 3 else 0)).squeeze(1) * self.scale


def test_the_loss_that_moved_most_is_named():
    objective = bi.Objective(Moves().double(), lambda outputs, targets: outputs)
    message = rf"depends on .*: {2 - 95 / 99:.6g} among 100, {2.3 - 95 / 99:.6g} among 3\."
    with pytest.raises(ValueError, match=message):
        reduce(objective, data(100))


def test_numbers_of_an_example_are_those_behind_the_leading_axes():
    inputs = {"a": torch.zeros(7, 3, 2), "b": (torch.zeros(7), torch.zeros(7, 4))}
    assert numbers_per_example(inputs) == 6 + 1 + 4
    assert numbers_per_example(inputs["a"], leading=2) == 2
    assert numbers_per_example(torch.zeros(7, 0)) == 1


@pytest.mark.parametrize(
    ("inputs", "sizes"), [(torch.zeros(10, 3).long(), {3, 1}), (torch.zeros(10, 3).double(), {8, 2})]
)
def test_tokens_pass_fewer_at_a_time_since_they_stand_for_vectors(inputs, sizes, monkeypatch):
    class Looked(nn.Module):
        def __init__(self):
            super().__init__()
            self.vectors = nn.Embedding(2, 4)

        def forward(self, x):
            passed.append(len(x))
            return self.vectors(x.long()).flatten(1, 2)[:, :8]

    passed = []
    monkeypatch.setattr(companies, "ENTRIES", 24)
    objective = bi.Objective(Looked().double(), bi.CrossEntropy())
    companies.examine(
        objective,
        data(10, inputs),
        lambda x, _: companies.Passed(objective.outputs({}, x)),
        lambda *_: None,
        every=False,
    )
    assert max(passed) == max(sizes)
    assert sizes <= set(passed)
