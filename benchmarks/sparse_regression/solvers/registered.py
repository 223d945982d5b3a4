"""Every solver that the family knows, ours and others'."""

from benchopt import BaseSolver

from mipprune.bench import families
from mipprune.bench.layout import SolverParts


class Solver(SolverParts, BaseSolver):
    name = "registered"
    family = "sparse_regression"
    sampling_strategy = "run_once"
    parameters = {"solver": list(families.find("sparse_regression").solvers), "seconds": [10.0]}
