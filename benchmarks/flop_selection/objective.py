"""Selection within NNZ and FLOP budgets under benchopt: `benchopt run benchmarks/flop_selection`."""

from benchopt import BaseObjective

from mipprune.bench.layout import ObjectiveParts


class Objective(ObjectiveParts, BaseObjective):
    name = "Selection within NNZ and FLOP budgets"
    min_benchopt_version = "1.7"
