"""The audit: influence estimates held against retraining, stage by stage.

- `audit` (`of_networks`), `audit_table` (`of_table`), `audit_run` (`of_run`): of networks at hand, of a scheme on a
  table, of a finished run.
- `AuditSettings`, `AuditedTable` (`settings`): what is done, and to which table's networks.
- `audit_jobs` (`jobs`), `measure_network` (`cell`), `audit_spectrum` (`spectrum`): the way of one network.
- `Audit` (`result`): what was found; `report` prints and draws it.
"""
