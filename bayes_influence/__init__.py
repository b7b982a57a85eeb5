"""Influence functions for Bayesian and deterministic neural networks, measured against retraining."""
