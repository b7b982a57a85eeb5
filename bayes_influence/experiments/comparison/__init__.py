"""Comparison of regularisation schemes: influence accuracy and Hessian spectrum, side by side."""
