"""Gaussian graphical models under benchopt: `benchopt run benchmarks/graphical_models`."""

from benchopt import BaseObjective

from mipprune.bench.layout import ObjectiveParts


class Objective(ObjectiveParts, BaseObjective):
    name = "Gaussian graphical models"
    min_benchopt_version = "1.7"
