import numpy as np
import pytest

from bayes_influence.evaluation.waterfall import GAPS, STAGES, average_waterfall, waterfall


@pytest.fixture
def stages():
    """Six stages of 2 removals: outputs on 4 examples with 3 classes, losses on 2 test examples."""
    generator = np.random.default_rng(0)
    outputs = {stage: generator.normal(size=(3, 4, 3)) for stage in STAGES}
    losses = {stage: generator.normal(size=(3, 2)) for stage in STAGES}
    return outputs, losses


def test_every_gap_is_between_neighbours(stages):
    gaps = waterfall(*stages, [7, 9])
    assert list(dict.fromkeys(gaps["gap"])) == list(GAPS.values())
    assert gaps["example"].tolist() == [7, 9] * 5


def test_distances_are_the_definitions(stages):
    outputs, losses = stages
    row = waterfall(outputs, losses, [7, 9]).query("gap == 'non-convergence' and example == 9").iloc[0]
    near, far = outputs["proximal"], outputs["pbrf"]
    distances = [np.sqrt(((near[2, j] - far[2, j]) ** 2).sum()) for j in range(4)]
    assert row["output_distance"] == pytest.approx(np.mean(distances))
    apart = (near[2] - near[0]) - (far[2] - far[0])
    assert row["effect_distance"] == pytest.approx(np.mean([np.sqrt((one**2).sum()) for one in apart]))
    changes = [losses[stage][2] - losses[stage][0] for stage in ("proximal", "pbrf")]
    assert row["loss_difference"] == pytest.approx(np.abs(changes[0] - changes[1]).mean())
    assert row["output_effect"] == pytest.approx(np.linalg.norm(near[2] - near[0], axis=-1).mean())
    assert row["loss_effect"] == pytest.approx(np.abs(changes[0]).mean())


def test_drift_counts_as_distance_but_not_as_effect(stages):
    outputs, losses = stages
    outputs["warm"] = outputs["cold"] + 5.0
    losses["warm"] = losses["cold"] + 5.0
    gap = waterfall(outputs, losses, [7, 9]).query("gap == 'warm-start'")
    assert (gap["output_distance"] - 5 * np.sqrt(3)).abs().max() < 1e-12
    assert gap[["effect_distance", "loss_difference"]].to_numpy().max() < 1e-12


def test_a_stage_may_be_left_out(stages):
    outputs, losses = stages
    outputs.pop("proximal"), losses.pop("proximal")
    assert "warm to pbrf" in set(waterfall(outputs, losses, [7, 9])["gap"])


def test_averages_keep_their_order_and_shares_add_up(stages):
    gaps = waterfall(*stages, [7, 9])
    means = average_waterfall(gaps)
    assert means["gap"].tolist() == list(GAPS.values())
    assert means["output_share"].sum() == pytest.approx(1.0)
    assert means["output_distance"].iloc[0] == pytest.approx(gaps["output_distance"].iloc[:2].mean())
    both = average_waterfall(gaps.assign(seed=gaps["example"]), by=["seed"])
    assert both.groupby("seed")["output_share"].sum().tolist() == pytest.approx([1.0, 1.0])


def test_what_does_not_fit_is_refused(stages):
    outputs, losses = stages
    with pytest.raises(ValueError, match=r"every stage needs a control and 5 removals, 6 rows.*got \[3\]"):
        waterfall(outputs, losses, [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match=r"a gap lies between two stages, got \['cold'\]"):
        waterfall({"cold": outputs["cold"]}, {"cold": losses["cold"]}, [7, 9])
    with pytest.raises(ValueError, match="the same stages out of cold, warm"):
        waterfall(outputs | {"lukewarm": outputs["cold"]}, losses, [7, 9])


def test_one_gap_and_one_removal_are_enough(stages):
    outputs, losses = ({stage: values[:2] for stage, values in list(side.items())[:2]} for side in stages)
    (gap,) = waterfall(outputs, losses, [7])["gap"]
    assert gap == next(iter(GAPS.values()))
    with pytest.raises(ValueError, match="a control and 0 removals, 1 rows, at least two"):
        waterfall(*({stage: values[:1] for stage, values in side.items()} for side in stages), [])
