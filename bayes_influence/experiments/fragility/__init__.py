"""The studies of Epifano et al. on the fragility of influence functions."""
