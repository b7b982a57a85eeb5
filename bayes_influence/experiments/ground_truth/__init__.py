"""Ground truth that is computed once and kept: refits and retrainings on subsets, stored a few at a time."""
