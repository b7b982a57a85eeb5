"""Attribution of a run: which training examples shaped its predictions.

- `influence_of_run`, `InfluenceRequest` (`of_run`): scores of a finished run, stored with their ranking.
- `why`: why a run predicts what it predicts, how sure it is, and what happens without the first rows.
- `predict_rows` (`predictions`): what a run predicts for new rows of a table.
- `labels`: which labels are wrong, with the rows that argue for and against them.
- `ranked`, `printed_rankings` (`ranking`): most helpful and most harmful examples, as a table.
- `influence_figure` (`pictures`): the same in images.
"""
