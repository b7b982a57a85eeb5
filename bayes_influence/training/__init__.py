"""The ensemble trainer, its schedules and averages, and the named schemes."""
