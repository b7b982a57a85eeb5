"""Why a run predicts what it predicts: the rows behind it, how sure it is, and what happens without the first ones.

- `explain_run` (`of_run`): the whole, of a finished run.
- `AskedRun` (`asked`): the network where it is asked, what it learned from, and the test examples.
- `Question` (`question`): what is measured and ranked; `OfClasses` (`of_classes`), `OfNumbers` (`of_numbers`).
- `Explanation` (`explanation`): what was found, and how it is printed.
"""
