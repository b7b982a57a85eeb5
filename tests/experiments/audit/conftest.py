import pytest

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.experiments.audit.cell import measure_network
from bayes_influence.experiments.audit.jobs import audit_jobs
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.models.mlp import MLP
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule

SCHEDULE = Schedule(150, 0.02)
SETTINGS = AuditSettings(removals=5, damping=0.05, refit_schedule=Schedule(30))


@pytest.fixture(scope="session")
def data():
    whole = logistic_classes(36, n_features=3, n_classes=3, seed=1).dataset
    return whole.select(range(34)), whole.select(range(34, 36))


@pytest.fixture(scope="session")
def tanh_network():
    """Builds the network that is audited."""
    return lambda: MLP(3, 3, width=3, activation="tanh")


@pytest.fixture(scope="session")
def audit_settings():
    """A small audit of two networks."""
    return SETTINGS


@pytest.fixture(scope="session")
def fitted(data, tanh_network):
    """Trains two networks with weight decay in the named parameters."""

    def fit(parameters, decay=0.05, tolerance=1e-10):
        scheme = Deterministic("l2", weight_decay=decay or 1.0, regulariser_weight=float(decay > 0))
        seeds = [0, 1]
        (fits,) = fit_schemes(
            [scheme], tanh_network, data[0], seeds, SCHEDULE, parameters=parameters, tolerance=tolerance
        )
        return fits

    return fit


@pytest.fixture(scope="session")
def last_layer(fitted):
    return fitted("last-layer")


@pytest.fixture(scope="session")
def unfinished(fitted):
    return fitted("all", decay=0.0, tolerance=None)


@pytest.fixture(scope="session")
def found(unfinished, data, tanh_network):
    cold = FromScratch(unfinished.scheme, tanh_network, SCHEDULE)
    return audit(unfinished, *data, SETTINGS, cold=cold, progress=False)


@pytest.fixture(scope="session")
def measured(last_layer, data):
    """Jobs, and what they measured."""
    jobs = audit_jobs(last_layer, *data, AuditSettings(removals=4, damping=0.01))
    return jobs, {key: measure_network(job) for key, job in jobs.items()}
