"""Attribution of a run: which training examples shaped its predictions.

- `influence_of_run`, `InfluenceRequest` (`of_run`): scores of a finished run, stored with their ranking.
- `ranked`, `printed_rankings` (`ranking`): most helpful and most harmful examples, as a table.
- `influence_figure` (`pictures`): the same in images.
"""
