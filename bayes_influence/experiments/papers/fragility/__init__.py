"""Epifano et al., "Revisiting the fragility of influence functions": the study, as published and corrected.

- `choices`: the one place of the switches. `published_code`, `published_bayes`: what stands behind the published ones.
- `networks`, `protocol`: training, ranking, estimates and refits on Iris, as the choices say; `heads`,
  `head_pipeline`: those in the last layer of image networks.
- `settings`, `image_settings`: what is asked for. `tables`, `findings`: the published numbers, and sentences.
- `iris`: figures 1 and 3. `images`: figure 2. `curve_cells`, `curves`: figures 4 and 5. `ablation`, `ablation_images`,
  `ablation_report`: which choice makes the difference. `refit_length`, `grid_cells`, `all_layers`, `recipes`,
  `training_recipe`: where fragility is real. `everything`: all of it.
"""
