"""Means and variances of activations, one rule per operation, and the conversion of a deterministic network."""
