"""Comparison of regularisation schemes: influence accuracy and Hessian spectrum, side by side.

- `Study` (`study`): what is compared.
- `compare_regularisers`, `run_study` (`regularisers`): the main job, on one network or on a grid.
- `measure` (`cell`): every number of one cell.
- `StudyResult` (`result`): what was found; `summary`, `significance` and `figures` say it in tables, words and plots.
"""
