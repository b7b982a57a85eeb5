"""What the command `audit` does with a finished run, and with a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_influence.cli.options import (
    columns_of,
    fields_of,
    folder_of,
    given_or_none,
    refuse_data_folder,
    refuse_given,
    settings_of,
)
from bayes_influence.cli.parameters import Parameters
from bayes_influence.cli.scheme_options import said_scheme_options

if TYPE_CHECKING:
    from bayes_influence.experiments.audit.result import Audit
    from bayes_influence.experiments.audit.settings import AuditSettings

OF_RUNS = ("dataset", "parameters", "tests", "device", "data_folder")
"""What an audit of a finished run is asked, of what an audit of a data set is."""


def audit_of_run(dataset: str, given: dict[str, Any], settings: AuditSettings) -> tuple[Audit, Path]:
    """Audits the networks of a finished run.

    Args:
        dataset: Folder of the run.
        given: What the command was given.
        settings: Of the audit.

    Returns:
        What was found, and the result folder.
    """
    from bayes_influence.data.files import named
    from bayes_influence.experiments.audit.of_run import audit_run
    from bayes_influence.experiments.audit.settings import AuditedData

    of_data = [name for name in fields_of(AuditedData) if name not in OF_RUNS]
    refuse_given([*of_data, *said_scheme_options()], f"{dataset} is a finished run, which has its own")
    folder = given["out"] or Path("runs") / f"audit-{named(Path(dataset)).name}"
    asked = {name: given[name] for name in ("tests", "data_folder")}
    asked["parameters"] = (given["parameters"] or Parameters.ALL).value
    asked["device"] = given_or_none("device", given["device"])
    found, _ = audit_run(dataset, folder, settings, **asked, n_jobs=given["jobs"])
    return found, folder


def audit_of_data(dataset: str, given: dict[str, Any], settings: AuditSettings) -> tuple[Audit, Path]:
    """Trains networks on a data set and audits them.

    Args:
        dataset: A data set by name, or data of one's own.
        given: What the command was given.
        settings: Of the audit; refits get the data set's own schedule where it trains in minibatches.

    Returns:
        What was found, and the result folder.
    """
    from bayes_influence.data.tables import TABLES
    from bayes_influence.experiments.audit.of_data import audit_data
    from bayes_influence.experiments.audit.settings import AuditedData
    from bayes_influence.experiments.comparison.networks import refit_schedule

    refuse_data_folder(dataset)
    usual = Parameters.ALL if dataset in TABLES else Parameters.LAST_LAYER
    own = {"parameters": (given["parameters"] or usual).value, "scheme_options": said_scheme_options()}
    columns, place = columns_of(given["target"], given["categorical"]), folder_of(given["data_folder"])
    data = settings_of(AuditedData, given, **own, **columns, **place)
    if data.full_batch:
        refuse_given(["tests"], f"of {dataset} one example is left out of training and tested")
    else:
        settings = replace(settings, refit_schedule=refit_schedule(given["refit_epochs"], data.n_train()))
    folder = given["out"] or Path("runs") / f"audit-{data.data_name}"
    found, _ = audit_data(data, folder, settings, n_jobs=given["jobs"])
    return found, folder
