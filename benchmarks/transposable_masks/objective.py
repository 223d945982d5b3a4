"""Transposable N:M masks under benchopt: `benchopt run benchmarks/transposable_masks`."""

from benchopt import BaseObjective

from mipprune.bench.layout import ObjectiveParts


class Objective(ObjectiveParts, BaseObjective):
    name = "Transposable N:M masks"
    min_benchopt_version = "1.7"
