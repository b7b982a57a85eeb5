import torch

from bayes_influence.experiments.attribution.labels import evidence
from bayes_influence.experiments.attribution.labels.evidence import label_evidence, with_targets
from bayes_influence.influence.influence import Influence


def test_the_strongest_rows_on_each_side_are_those_of_the_scores(regression, train):
    influence = Influence(regression.at(0), train, damping=0.0)
    ids, proposed = train.ids[[4, 9]], (train.targets[[4, 9]] + 1) % 3
    found = label_evidence(influence, train, ids, proposed, 3, train.ids != 20)
    asked = train.at(ids)
    as_labelled = influence.on_loss(asked).removal
    as_proposed = influence.on_loss(with_targets(asked, proposed)).removal
    for row, own in enumerate([4, 9]):
        for lists, effects in (
            (found.supporting, as_labelled[row]),
            (found.opposing, -as_labelled[row]),
            (found.proposing, as_proposed[row]),
        ):
            order = [place for place in effects.argsort(descending=True).tolist() if place not in (own, 20)][:3]
            assert lists[row] == train.ids[order].tolist()


def test_examples_in_turns_have_the_same_evidence(regression, train, monkeypatch):
    influence = Influence(regression.at(0), train, damping=0.0)
    asked = (influence, train, train.ids[:5], (train.targets[:5] + 1) % 3, 3, train.ids != 20)
    together = label_evidence(*asked)
    monkeypatch.setattr(evidence, "SCORES", 2 * len(train))
    assert vars(label_evidence(*asked)) == vars(together)
    assert vars(label_evidence(*asked[:4], 0, asked[5])) == dict.fromkeys(vars(together), [[]] * 5)


def test_of_rows_that_argue_alike_the_first_are_named():
    effects = torch.tensor([1.0, 3.0, 2.0, 0.0, 2.0, 2.0, -1.0])
    everyone = torch.ones(7, dtype=torch.bool)
    assert evidence._strongest(effects, torch.arange(10, 17), everyone, 3) == [11, 12, 14]
    assert evidence._strongest(effects, torch.arange(10, 17), everyone, 9) == [11, 12, 14, 15, 10]
    assert evidence._strongest(effects, torch.arange(10, 17), torch.arange(7) != 1, 1) == [12]


def test_rows_that_do_the_opposite_are_on_no_list(regression, train):
    influence = Influence(regression.at(0), train, damping=0.0)
    everyone = torch.ones(40, dtype=torch.bool)
    found = label_evidence(influence, train, train.ids[:1], train.targets[:1], 40, everyone)
    effects = influence.on_loss(train.at(train.ids[:1])).removal[0]
    assert len(found.supporting[0]) == int((effects[1:] > 0).sum())
    assert len(found.opposing[0]) == int((effects[1:] < 0).sum())


def test_other_targets_leave_everything_else(train):
    changed = with_targets(train, torch.zeros(40, dtype=torch.int64))
    assert not changed.targets.any()
    assert torch.equal(changed.inputs, train.inputs)
    assert torch.equal(changed.ids, train.ids)
