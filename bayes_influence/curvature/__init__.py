"""Linear operators of second derivatives, damping, solvers that return a `Solution`, and the spectrum."""
