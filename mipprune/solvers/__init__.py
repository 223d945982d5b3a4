"""Solvers: each a frozen dataclass of its parameters."""
