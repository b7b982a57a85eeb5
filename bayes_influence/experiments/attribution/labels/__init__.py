"""Wrong labels: which they are, how sure that is, and what the training rows say for and against them.

- `find_mislabelled` (`of_examples`), `find_in_data` (`of_data`): of data at hand, of data that a command names.
- `LabelSettings`, `LabelData` (`settings`): what is done, and to which data with which network.
- `label_evidence` (`evidence`): self-influence, and the rows that argue for and against a label.
- `LabelIssues` (`result`): what was found, as a table and in files; `page_of` (`page`): as a page to go through.
- `apply_marks` (`marks`): what a person marked there, applied to the data.
"""
