import numpy as np
import pytest

from bayes_influence.experiments.audit import spectrum as audit_spectrum
from bayes_influence.experiments.audit.jobs import audit_jobs


def test_the_spectrum_is_that_of_hessian_and_gauss_newton_matrix(found):
    spectrum = found.spectrum.set_index(["seed", "matrix"])
    assert spectrum.loc[(0, "ggn"), "smallest"] > -1e-12
    assert spectrum.loc[(0, "hessian"), "parameters"] == 24
    values = found.eigenvalues.query("seed == 1 and matrix == 'ggn'")["eigenvalue"].to_numpy()
    assert spectrum.loc[(1, "ggn"), "largest"] == pytest.approx(values.max())
    assert spectrum.loc[(1, "ggn"), "trace"] == pytest.approx(values.sum())
    assert spectrum.loc[(1, "ggn"), "effective_dimension"] == pytest.approx((values / (values + 0.05)).sum())
    assert found.attribution["score_share"].sum() == pytest.approx(1.0)


def test_large_spectra_come_from_lanczos(unfinished, data, monkeypatch, audit_settings):
    job = audit_jobs(unfinished, *data, audit_settings)["seed=0"]
    influence = audit_settings.influence(job.fits.at(0), job.train, job.damping)
    arguments = influence, "ggn", job.delta, job.train.at(job.removed), job.test
    dense = audit_spectrum.audit_spectrum(*arguments)
    monkeypatch.setattr(audit_spectrum, "DENSE_SIZE", 10)
    large = audit_spectrum.audit_spectrum(*arguments)
    # P = 24 < 40 steps: the Krylov spaces are exhausted, and only the choice of the probes is left.
    for column in ("largest", "smallest", "parameters"):
        np.testing.assert_allclose(large["spectrum"][column], dense["spectrum"][column], atol=1e-9)
    np.testing.assert_allclose(large["spectrum"]["trace"], dense["spectrum"]["trace"], rtol=0.5)
    assert large["eigenvalues"].groupby("matrix")["count"].sum().tolist() == pytest.approx([24, 24])
    for column in ("score_share", "mean_size"):
        np.testing.assert_allclose(large["attribution"][column], dense["attribution"][column], rtol=1e-6, atol=1e-9)
