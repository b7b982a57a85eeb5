"""Epifano et al., "Revisiting the fragility of influence functions": the study, as published and corrected.

- `choices`: the one place of the switches. `published_code`, `published_bayes`: what stands behind the published ones.
- `networks`, `protocol`: training, ranking, estimates and refits on Iris, as the choices say.
- `settings`, `tables`, `findings`: what is asked for, the published numbers, and what agrees with them in sentences.
- `iris`: figures 1 and 3.
"""
