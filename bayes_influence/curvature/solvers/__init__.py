"""Solvers of (H + damping) x = v; each returns a `Solution` that says how good it is."""
