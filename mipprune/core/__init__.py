"""Core types: separable models, losses, structures, problems, certificates, solutions, solvers."""
