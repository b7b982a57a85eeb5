"""Training runs: settings, the run in its folder, and the report at its end."""
