"""Studies of papers that can be done again, a file or a folder for each paper.

- `reproduce`, `paper_studies` (`registry`): every study by name. A new file of studies is one line there.
- `PaperStudy`, `Reproduced` (`study`): what a study is, and what it came to.
- `ScaledStudy`, `scaled_study` (`scaled`): a study in scales with a cell per seed: its settings, and how it is done.
- `regression`, `small_images`, `means`: what several papers' studies share.
- `fragility`: Epifano et al., both modes. `groups`: Basu et al.
"""
