"""The errors share a base class, keep a built-in one and are offered by the package, as is its version."""

import importlib.metadata
import inspect
import pkgutil

import pytest

import bayes_influence as bi


def own_errors():
    """Every public error class that a module of the package defines."""
    for found in pkgutil.walk_packages(bi.__path__, "bayes_influence."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            for name, member in inspect.getmembers(module, inspect.isclass):
                is_error = issubclass(member, Exception) and not issubclass(member, Warning)
                if is_error and member.__module__ == module.__name__ and not name.startswith("_"):
                    yield member


OWN = [error for error in own_errors() if error is not bi.BayesInfluenceError]


@pytest.mark.parametrize("error", OWN, ids=lambda error: error.__name__)
def test_an_error_is_the_librarys_and_a_built_in_one_and_is_offered(error):
    assert issubclass(error, bi.BayesInfluenceError)
    assert any(base.__module__ == "builtins" and base not in (Exception, BaseException, object) for base in error.mro())
    assert getattr(bi, error.__name__) is error
    assert error.__name__ in bi.__all__


def test_there_are_errors():
    assert {"IndefiniteCurvatureError", "NonFiniteTrainingError"} <= {error.__name__ for error in OWN}


def test_all_of_them_are_caught_at_once():
    with pytest.raises(bi.BayesInfluenceError, match="smallest eigenvalue is -1"):
        raise bi.IndefiniteCurvatureError(-1.0, "cholesky")
    with pytest.raises(ValueError, match="smallest eigenvalue is -1"):
        raise bi.IndefiniteCurvatureError(-1.0, "cholesky")


def test_the_version_is_the_installed_ones():
    assert bi.__version__ == importlib.metadata.version("bayes-influence")
