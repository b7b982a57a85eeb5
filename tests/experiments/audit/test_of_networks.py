import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_influence.data.arguments import Arguments
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.verdict import Grade
from bayes_influence.experiments.audit import of_networks as auditing
from bayes_influence.experiments.audit.of_networks import audit, audit_config
from bayes_influence.experiments.audit.result import summarise_audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.next_token import NextToken
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from tests.tiny_transformers import LENGTH, VOCABULARY, TinyGPT


def test_a_convex_last_layer_can_be_trusted(last_layer, data):
    settings = AuditSettings(removals=8, damping=1e-6)
    trusted = audit(last_layer.at(0), *data, settings, progress=False)
    assert trusted.truth == "warm"
    assert trusted.verdict.grade is Grade.TRUSTWORTHY
    assert trusted.notes == ()
    assert trusted.agreement.set_index("stage").loc["warm", "spearman"] > 0.95
    gaps = trusted.waterfall.set_index("gap")
    # At a minimum of a convex problem only linearising costs anything.
    assert gaps["output_distance"].idxmax() == "linearisation"
    assert gaps.loc["solver", "output_distance"] < 1e-8


def test_one_objective_is_audited_from_where_it_stands(last_layer, data):
    settings = AuditSettings(removals=4, damping=0.01)
    found = audit(last_layer.at(1), *data, settings, progress=False)
    assert found.effects["seed"].unique().tolist() == [0]
    assert np.isnan(found.ceiling)


@pytest.mark.slow
def test_variational_networks_are_audited_in_the_fisher_metric(data, tanh_network):
    (fits,) = fit_schemes([SCHEMES["bnn"]], tanh_network, data[0], [0], Schedule(150, 0.02))
    found = audit(fits, *data, AuditSettings(removals=4), progress=False)
    assert found.damping > 0
    assert found.stages.set_index("stage").loc["warm", "unconverged"] == 0
    assert found.agreement.set_index("stage").loc["pbrf", "pearson"] > 0.5


def test_a_killed_audit_resumes(last_layer, data, measured, tmp_path, monkeypatch):
    jobs, cells = measured
    settings, folder = AuditSettings(removals=4, damping=0.01), tmp_path / "audit"
    asked = []

    def killed_at_the_second(job):
        asked.append(job.members.seeds)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return cells[f"seed={job.seed}"]

    monkeypatch.setattr(auditing, "measure_network", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt, match="1 of 2 cells are stored"):
        audit(last_layer, *data, settings, folder=folder, progress=False)
    resumed = audit(last_layer, *data, settings, folder=folder, progress=False)
    assert asked == [(0,), (1,), (1,)]
    whole = summarise_audit(cells, jobs)
    assert resumed.agreement.equals(whole.agreement)
    assert (folder / "verdict.txt").read_text().startswith(whole.verdict.sentence)
    with pytest.raises(ValueError, match=r"another configuration: settings\.removals is 4 there and 5 here"):
        audit(last_layer, *data, AuditSettings(removals=5, damping=0.01), folder=folder, progress=False)


def test_a_polished_audit_is_of_a_minimum(data, fitted):
    unpolished = fitted("last-layer", tolerance=None)
    settings = AuditSettings(removals=4, damping=1e-6, polish=True)
    polished = audit(unpolished, *data, settings, progress=False)
    assert polished.notes == ()
    told = [said.partition(": J, ")[0] for said in polished.polished]
    assert told == [f"polished {label}" for label in unpolished.labels]
    assert polished.verdict.grade is Grade.TRUSTWORTHY
    assert polished.stages.query("stage == 'warm'")["control_drift"].max() < 1e-4


def test_networks_of_another_s_making_are_audited_as_a_stack(last_layer, data):
    settings = AuditSettings(removals=4, damping=0.01)
    together = audit(last_layer, *data, settings, progress=False)
    apart = audit(Members.of([last_layer.at(0), last_layer.at(1)]), *data, settings, progress=False)
    assert apart.effects.equals(together.effects)


def test_a_last_layer_without_regulariser_can_be_refitted_to_its_minimum(data, fitted):
    free = fitted("last-layer", decay=0.0, tolerance=None)
    found = audit(free, *data, AuditSettings(removals=4, damping=1e-3, refits="newton"), progress=False)
    assert found.stages.set_index("stage").loc["warm", "unconverged"].max() == 0
    with pytest.raises(ValueError, match="unknown refits 'cold'; known: auto, newton, trained"):
        AuditSettings(refits="cold")


def test_an_audit_belongs_to_its_networks_and_its_examples(last_layer, data):
    """Everything that its cells depend on is in what they are stored under, also where labels and ids are the same."""
    (train, test), settings = data, AuditSettings(removals=4)

    def config(members=last_layer, train=train, test=test, settings=settings):
        return audit_config(members, train, test, settings, None)

    moved = {name: value + 1e-6 for name, value in last_layer.params.items()}
    heavier = replace(last_layer.objective, regulariser_weight=2.0)
    others = [
        config(replace(last_layer, params=moved)),
        config(replace(last_layer, objective=heavier)),
        config(train=replace(train, targets=train.targets.roll(1))),
        config(train=replace(train, weights=torch.linspace(1, 2, len(train), dtype=torch.float64))),
        config(test=replace(test, inputs=test.inputs + 1e-6)),
        config(settings=replace(settings, damping=0.5)),
    ]
    kept = [json.dumps(one, sort_keys=True) for one in (config(), *others)]
    assert len(set(kept)) == len(kept)
    assert json.dumps(config(), sort_keys=True) == kept[0]


def test_a_named_block_of_a_transformer_is_audited():
    tokens = torch.randint(VOCABULARY, (17, LENGTH))
    texts = Dataset(Arguments(input_ids=tokens), tokens, torch.arange(17))
    gpt = TinyGPT().double()
    block = [name for name, _ in gpt.named_parameters() if name.startswith("block.")]
    objective = Objective(gpt, NextToken("mean"), WeightDecay(0.01), parameters=block)
    settings = AuditSettings(removals=3, damping=2.0, refit_schedule=Schedule(2))
    found = audit(objective, texts.select(range(15)), texts.select([15, 16]), settings, progress=False)
    stages, by_stage = found.stages.set_index("stage"), found.agreement.set_index("stage")
    assert stages.loc[["proximal", "pbrf"], "unconverged"].tolist() == [0, 0]
    assert stages.loc["pbrf", "control_drift"] < 1e-6 < stages.loc["proximal", "control_drift"]
    assert by_stage.loc["pbrf", "pearson"] > 0.99
    assert by_stage.loc["pbrf", "slope"] == pytest.approx(1, abs=0.05)
