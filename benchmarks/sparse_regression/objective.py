"""Sparse regression under benchopt: `benchopt run benchmarks/sparse_regression`."""

from benchopt import BaseObjective

from mipprune.bench.layout import ObjectiveParts


class Objective(ObjectiveParts, BaseObjective):
    name = "Sparse regression"
    min_benchopt_version = "1.7"
