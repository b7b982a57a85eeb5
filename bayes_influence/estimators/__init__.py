"""Bayesian networks as scikit-learn has its estimators: fit and predict, and influence on what was fitted."""
