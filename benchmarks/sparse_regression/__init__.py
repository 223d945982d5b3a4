"""Sparse regression: trees with certificates beside other solvers."""
