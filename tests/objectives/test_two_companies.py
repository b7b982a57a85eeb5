"""Two orders of a data set, and what a loss that is not an example's own is in them."""

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.curvature.operators.ekfac import EKFAC
from bayes_influence.objectives import company, two_companies
from bayes_influence.objectives.two_companies import MOST_PARTS, TwoCompanies


def data(length):
    inputs = torch.arange(length).double().unsqueeze(1) / length
    return bi.Dataset(inputs, torch.arange(length) % 2, torch.arange(length) + 7, "train")


def joined(batches):
    return [one for batch in batches for one in batch]


def passed(network, examples, size, *, work=1, monkeypatch):
    monkeypatch.setattr(two_companies, "PART_WORK", work)
    objective = bi.Objective(network.double(), bi.CrossEntropy())
    companies, found = TwoCompanies(objective, examples, size), []
    for batch in companies.batches():
        companies.look(objective.outputs(objective.params, batch.inputs), batch)
        found.append((batch.inputs[:, 0] * len(examples)).round().long().tolist())
    assert companies.count == -(-len(examples) // size)
    return found[: companies.count], found[companies.count :]


@pytest.mark.parametrize(("length", "size"), [(2000, 50), (100, 50), (4225, 64), (37, 5), (150, 12)])
def test_no_two_examples_are_together_twice(length, size, monkeypatch):
    first, second = passed(nn.Linear(1, 2), data(length), size, monkeypatch=monkeypatch)
    assert sorted(joined(second)) == joined(first) == list(range(length))
    pairs = [{(a, b) for batch in order for a in batch for b in batch if a < b} for order in (first, second)]
    assert len(pairs[0] & pairs[1]) <= length // 50 if length < size**2 else not pairs[0] & pairs[1]
    assert max(map(len, second)) <= size


def test_large_batches_are_cut_into_many(monkeypatch):
    first, second = passed(nn.Linear(1, 2), data(3000), 1000, monkeypatch=monkeypatch)
    assert len(first) == 3
    assert len(second) == MOST_PARTS + 2  # of 3000 // 65 = 46, and what is left
    together = {(a, b) for batch in second for a in batch for b in batch if a < b and b // 1000 == a // 1000}
    assert len(together) <= 3 * 1000 * 999 / 2 / (MOST_PARTS - 1)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_hardly_any_examples_pass_too(length, monkeypatch):
    first, second = passed(nn.Linear(1, 2), data(length), 50, monkeypatch=monkeypatch)
    assert first == [list(range(length))]
    assert sorted(joined(second)) == list(range(length))


def test_few_examples_pass_as_they_are(monkeypatch):
    first, second = passed(nn.Sequential(Pairs(), nn.Linear(1, 2)), data(40), 10, work=11, monkeypatch=monkeypatch)
    assert first == second
    with pytest.raises(ValueError, match="the loss of an example depends on the other examples of its batch"):
        passed(nn.Sequential(Pairs(), nn.Linear(1, 2)), data(40), 10, work=10, monkeypatch=monkeypatch)


class Pairs(nn.Module):
    """Three examples of all, neighbours, are centred among them where they meet."""

    def forward(self, x):
        low = ((x > 0.24) & (x < 0.31)).to(x.dtype)  # 10, 11 and 12 of 40
        return x - low * (x * low).sum(0) / low.sum(0).clamp(min=1) * (low.sum(0) > 1)


@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_influence_by_ekfac_refuses_losses_that_depend_on_others(fisher, monkeypatch):
    monkeypatch.setattr(company, "FEW_NUMBERS", 0)
    monkeypatch.setattr(two_companies, "PART_WORK", 1)
    objective = bi.Objective(nn.Sequential(Pairs(), nn.Linear(1, 2), nn.Linear(2, 2)).double(), bi.CrossEntropy())
    message = r"train: the loss of an example depends on the other .* among 40, .* among 2\."
    with pytest.raises(ValueError, match=message):
        bi.Influence(objective, data(40), curvature=EKFAC(fisher=fisher), damping=1.0)
    with pytest.raises(
        ValueError, match=r"train: the loss of an example depends on the other .* among 40, .* among 1\."
    ):
        bi.Influence(objective, data(40), curvature="ggn", damping=1.0)


def test_examples_are_not_evaluated_alone_where_companies_are_compared(monkeypatch):
    monkeypatch.setattr(company, "FEW_NUMBERS", 0)
    monkeypatch.setattr(two_companies, "PART_WORK", 1)
    asked = []
    alone = company._alone
    monkeypatch.setattr(company, "_alone", lambda *given: asked.append(1) or alone(*given))
    objective = bi.Objective(nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 2)).double(), bi.CrossEntropy())
    for curvature, times in (("ekfac", 0), ("ggn", 1)):
        asked.clear()
        bi.Influence(objective, data(40), curvature=curvature, damping=1.0)
        assert len(asked) == times
