"""Datasets behind one small type: examples that keep their identities."""
