from bayes_influence.experiments.training.settings import usual_scheme_options


def test_the_usual_prior_goes_with_the_moments():
    """By fan-in with those of images and of convolutions, N(0, 1) on the columns of a table."""
    assert usual_scheme_options({"method": "exact", "structure": "calibrated"})["prior"] == "fan-in"
    assert usual_scheme_options({})["prior"] == "isotropic"
