"""Curvature as symmetric operators on flat parameter vectors, from dense matrices to matrix-free products."""
