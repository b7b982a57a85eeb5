import json
import platform
from pathlib import Path

import numpy as np
import torch

from bayes_influence.data.versions import PACKAGES, environment


def test_names_the_software_that_is_running():
    found = environment()
    assert set(found) == {"python", "system", "machine", *PACKAGES}
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()


def test_nothing_private_is_in_it():
    values = json.dumps(list(environment().values()))
    assert str(Path.home()) not in values
    assert f'"{platform.node()}"' not in values
