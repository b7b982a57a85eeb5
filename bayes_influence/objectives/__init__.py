"""Likelihoods, regularisers, and the one function that is trained, linearised and retrained."""
