"""Layer-wise pruning under benchopt: `benchopt run benchmarks/layerwise`."""

from benchopt import BaseObjective

from mipprune.bench.layout import ObjectiveParts


class Objective(ObjectiveParts, BaseObjective):
    name = "Layer-wise pruning"
    min_benchopt_version = "1.7"
