"""The audit: influence estimates held against retraining, stage by stage.

- `audit` (`of_networks`), `audit_data` (`of_data`), `audit_run` (`of_run`): of networks at hand, of a scheme on a
  data set, of a finished run.
- `AuditSettings`, `AuditedData` (`settings`): what is done, and to which networks on a data set.
- `audit_jobs` (`jobs`), `measure_network` (`cell`), `audit_spectrum` (`spectrum`): the way of one network.
- `ground_truth`: retrainings that are computed once and kept.
- `Audit` (`result`): what was found; `report` prints and draws it.
"""
