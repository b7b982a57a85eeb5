"""Comparison of regularisation schemes: influence accuracy and Hessian spectrum, side by side.

- `compare` (`of_networks`): of networks and data at hand; `CompareSettings`: what is done.
- `Study` (`study`): what is compared on a data set that is named.
- `compare_regularisers`, `run_study` (`regularisers`): the main job, on one network or on a grid.
- `measure` (`cell`): every number of one cell, `ComparedNetworks` (`networks`); `description`: those of a network.
- `Comparison` (`result`): what was found; `summary`, `significance` and `figures` say it in tables, words and plots.
"""
