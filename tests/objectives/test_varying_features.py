"""A last layer whose features vary from batch to batch leaves the network whole."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.sources import as_dataset
from bayes_influence.objectives import company
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce


class _PerToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 3), nn.Linear(3, 2)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def test_features_whose_length_varies_with_the_padding_leave_the_network_whole(monkeypatch):
    """Sequences of two and of three tokens, padded to the longest of their batch; padding does not count."""
    monkeypatch.setattr(company, "ENTRIES", 4)
    varied, alike = (
        [(torch.full((2 + longer * (number // 2),), 1 + number), number % 2) for number in range(4)]
        for longer in (1, 0)
    )

    def padded(pairs):
        rows = [tokens for tokens, _ in pairs]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([target for _, target in pairs])

    def likelihood(outputs, targets):
        return nn.functional.cross_entropy(outputs[:, 0], targets, reduction="none")

    objective = Objective(_PerToken().double(), likelihood, parameters="last-layer")
    of_varied, of_alike = (
        reduce(objective, as_dataset(DataLoader(items, batch_size=2, collate_fn=padded))) for items in (varied, alike)
    )
    assert "varies in shape or type from batch to batch" in of_varied.reason
    assert of_alike.is_head


class _Casts(nn.Linear):
    def forward(self, x):
        return super().forward(x.to(self.weight.dtype))


class _CastsSome(nn.Module):
    """Whole numbers, in single precision where the first example of a batch is positive."""

    def __init__(self):
        super().__init__()
        self.head = _Casts(2, 2)

    def forward(self, x):
        return self.head(x.float() if x[0, 0] > 0 else x)


def test_features_whose_type_varies_from_batch_to_batch_leave_the_network_whole(monkeypatch):
    monkeypatch.setattr(company, "ENTRIES", 8)
    objective = Objective(_CastsSome().double(), CrossEntropy(), parameters="last-layer")

    def reduction(signs):
        inputs = torch.arange(1.0, 17).view(8, 2).double() * torch.tensor(signs).repeat_interleave(4).unsqueeze(1)
        return reduce(objective, Dataset(inputs, torch.arange(8) % 2, torch.arange(8)))

    alike = reduction([-1, -1])
    assert torch.equal(alike.features[0], -torch.arange(1.0, 17).view(8, 2).double())
    assert "varies in shape or type from batch to batch" in reduction([-1, 1]).reason
