"""What work costs, and which sizes are small."""

from __future__ import annotations

DENSE_SIZE = 2000
"""Up to this P a matrix is built, factored or decomposed: seconds, and exact."""
