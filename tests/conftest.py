"""The test run: type and shape annotations checked on every call, one thread, one job, fixed seeds.

Property tests run on the same examples every time, and with the slow tests (`-m slow`) once more on fresh ones; a
failing example is printed with the line that repeats it.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # no processes where a test asks for none

import hypothesis
import pytest
import torch
from jaxtyping import config, install_import_hook

# An int may stand where a float is annotated, as type checkers have it.
install_import_hook("bayes_influence", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("fresh", max_examples=200, deadline=None, database=None, print_blob=True)

torch.set_num_threads(1)

# Fitted networks that several rooms are tested on; loaded after the import hook.
pytest_plugins = ["tests.fitted"]


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def as_installed():
    """Annotations unchecked, as where the library is used: what it refuses, it refuses in its own words."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def _is_slow_run(config):
    return config.getoption("markexpr") == "slow"


def pytest_configure(config):
    hypothesis.settings.load_profile("fresh" if _is_slow_run(config) else "reproducible")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items if _is_slow_run(config) else ():
        if getattr(item.obj, "is_hypothesis_test", False):
            item.add_marker("slow")
