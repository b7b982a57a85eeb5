"""Basu, You & Feizi (2020), "On second-order group influence functions for black-box predictions".

- `data`: the synthetic sets. `orders`: the paper's expansions, sign by sign.
- `logistic`: figures 1 and 2, groups of logistic regressions against refits. `selection`: figure 3, the most
  influential group. `network`: section 7.3.2, two hidden layers, drawn by `network_figure`.
"""
