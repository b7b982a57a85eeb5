import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bayes_influence.experiments.comparison.significance import in_words, least_corrected_p, scheme_tests, size_trends

SCHEMES = (("none", "influence"), ("swa", "influence"), ("bnn", "variational"))


@pytest.fixture(scope="module")
def results():
    """Three schemes from eight seeds at three depths: the third is higher by .3, all fall with depth."""
    generator = np.random.default_rng(0)
    rows = [
        {"depth": depth, "width": 5, "scheme": scheme, "estimator": estimator, "seed": seed, "spearman": value}
        for depth in (1, 2, 4)
        for rank, (scheme, estimator) in enumerate(SCHEMES)
        for seed, value in enumerate(
            0.3 * (rank == 2)
            - 0.2 * depth
            + np.resize([0.05, -0.05, 0.03], 8) * (rank == 1)
            + generator.normal(0, 0.02, 8)
        )
    ]
    return pd.DataFrame(rows)


def test_friedman_is_scipy_s_with_the_seeds_as_blocks(results):
    omnibus, _ = scheme_tests(results.sample(frac=1.0, random_state=1), ["spearman"])
    blocks = results.query("depth == 2").pivot_table(index="seed", columns="scheme", values="spearman")
    expected = scipy.stats.friedmanchisquare(*blocks.T.to_numpy())
    row = omnibus.query("depth == 2").iloc[0]
    assert row["statistic"] == pytest.approx(expected.statistic)
    assert row["p_value"] == pytest.approx(expected.pvalue)


def test_pairs_are_paired_by_seed_and_corrected(results):
    _, pairs = scheme_tests(results, ["spearman"])
    assert len(pairs) == 3 * 3
    own = pairs.query("depth == 1").set_index(["first", "second"])
    values = results.query("depth == 1").pivot_table(index="seed", columns="scheme", values="spearman")
    expected = scipy.stats.wilcoxon(values["none"], values["bnn"]).pvalue
    assert own.loc[("none", "bnn (variational)"), "p_value"] == pytest.approx(expected)
    assert own.loc[("none", "bnn (variational)"), "p_holm"] == pytest.approx(3 * expected)
    assert own.loc[("none", "bnn (variational)"), "mean_difference"] < 0


def test_trends_are_found_where_sizes_vary(results):
    trends = size_trends(results, ["spearman"])
    assert trends["axis"].unique().tolist() == ["depth"]
    assert (trends["effect_size"] < -0.7).all()
    assert size_trends(results.query("depth == 1"), ["spearman"]).empty


def test_words_say_what_the_tests_found(results):
    sentences = in_words(*scheme_tests(results, ["spearman"]), size_trends(results, ["spearman"]))
    assert len(sentences) == 3 + 3
    assert sentences[0].startswith("Spearman, depth 1, width 5, 8 seeds: Friedman p = ")
    assert "2 of 3 pairs differ (corrected p < 0.05), by mean in the order bnn (variational) > " in sentences[0]
    assert sentences[0].endswith("not shown to differ: none and swa.")
    assert sentences[3].startswith("Spearman, none, width 5: falls with depth (tau -0.")


def test_what_belongs_to_the_network_is_not_compared_with_itself(results):
    second = results.query("scheme == 'bnn'").assign(estimator="posterior-mean")
    both = pd.concat([results, second]).assign(loss_hessian_max=lambda rows: rows["spearman"])
    _, pairs = scheme_tests(both, ["spearman", "loss_hessian_max"])
    assert pairs.query("depth == 1").groupby("value").size().to_dict() == {"loss_hessian_max": 3, "spearman": 6}
    assert set(pairs.query("value == 'loss_hessian_max'")["second"]) == {"swa", "bnn"}


def test_one_scheme_and_one_seed_have_nothing_to_test(results):
    alone = results.query("scheme == 'none' and depth == 1")
    omnibus, pairs = scheme_tests(alone, ["spearman"])
    assert omnibus.empty
    assert pairs.empty
    assert in_words(omnibus, pairs, size_trends(alone, ["spearman"])) == []
    one = results.query("seed == 0 and depth == 1")
    (sentence,) = in_words(*scheme_tests(one, ["spearman"]), size_trends(one, ["spearman"]))
    assert "Friedman not defined (fewer than two complete seeds)" in sentence
    assert sentence.endswith(
        "no test between pairs: no two of none, swa, bnn (variational) have values in the same two seeds."
    )


def test_a_scheme_without_a_correlation_takes_no_test_from_the_others(results):
    """A scheme whose estimates are all equal has none in any seed."""
    at_one = results.query("depth == 1")
    empty = at_one.query("scheme == 'swa'").assign(scheme="constant", spearman=np.nan)
    (expected,) = in_words(*scheme_tests(at_one, ["spearman"]), pd.DataFrame())
    (sentence,) = in_words(*scheme_tests(pd.concat([at_one, empty]), ["spearman"]), pd.DataFrame())
    assert sentence.replace("constant left out for want of values; ", "") == expected
    assert "constant left out for want of values; 2 of 3 pairs differ" in sentence


def test_words_say_in_how_many_seeds_pairs_are_compared(results):
    at_one = results.query("depth == 1")
    gap = at_one["spearman"].mask((at_one["scheme"] == "swa") & (at_one["seed"] == 3))
    (sentence,) = in_words(*scheme_tests(at_one.assign(spearman=gap), ["spearman"]), pd.DataFrame())
    assert sentence.startswith("Spearman, depth 1, width 5, 7 to 8 seeds: Friedman p = ")


def test_a_value_with_too_few_groups_for_friedman_is_said_without_it(results):
    """A Bayesian network's two estimators make three groups of a correlation, and two of a property of the network."""
    two = results.query("scheme in ('none', 'bnn')").assign(loss_hessian_max=lambda rows: rows["spearman"])
    both = pd.concat([two, two.query("scheme == 'bnn'").assign(estimator="posterior-mean")])
    values = ["spearman", "loss_hessian_max"]
    sentences = in_words(*scheme_tests(both, values), pd.DataFrame())
    assert [("Friedman" in sentence) for sentence in sentences] == [True, False] * 3


def test_words_go_by_the_corrected_p_values(results):
    """Seven seeds could show that pairs differ; of schemes that overlap none does."""
    few = results.query("seed < 7 and depth == 1 and scheme != 'bnn'")
    third = few.query("scheme == 'none'").assign(scheme="third")
    few = pd.concat([few, third.assign(spearman=third["spearman"] + 0.1 * (third["seed"] % 2) - 0.05)])
    omnibus, pairs = scheme_tests(few, ["spearman"])
    assert pairs["p_holm"].min() > 0.05
    (sentence,) = in_words(omnibus, pairs, pd.DataFrame())
    assert sentence.endswith(
        f"no pair of schemes is shown to differ (smallest corrected p {pairs['p_holm'].min():.2g})."
    )


@pytest.mark.parametrize(("seeds", "least"), [(3, "0.75"), (6, "0.094")])
def test_words_say_that_few_seeds_can_show_nothing(results, seeds, least):
    """Six seeds of one sign have p = 1/32 for one pair, and three times that for three."""
    omnibus, pairs = scheme_tests(results.query("seed < @seeds and depth == 1"), ["spearman"])
    assert pairs["p_holm"].min() == pytest.approx(least_corrected_p(seeds, 3))
    (sentence,) = in_words(omnibus, pairs, pd.DataFrame())
    assert sentence.endswith(
        f"nothing could be shown with so few seeds: of 3 pairs the smallest corrected p that {seeds} seeds can have is "
        f"{least}; at least 7 seeds are needed."
    )


def test_words_call_no_weak_trend_one(results):
    trends = size_trends(results.query("scheme == 'none'"), ["spearman"]).assign(p_value=0.06)
    (sentence,) = in_words(pd.DataFrame(), pd.DataFrame(), trends)
    assert ": no trend over depth shown (tau -0." in sentence
