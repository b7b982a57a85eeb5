"""The store of a study, on which all rooms build.

- `StudyFolder` (`folder`): one configuration's folder, with its cells, tables and figures.
- `CellResult`, `cell_key` (`cells`): what one cell yields, and what it is called.
- `run_cells` (`runner`): computes the cells that are not stored yet, in parallel.
- `Settings` (`settings`): the one form of what a study is asked for.
- `save_figure`, `figure_style` (`figures`): how figures look and are stored.
"""
