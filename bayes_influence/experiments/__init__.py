"""Studies: grids of cells that are stored one by one, their tables and their figures."""
