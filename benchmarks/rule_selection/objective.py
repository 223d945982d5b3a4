"""Rules of tree ensembles under benchopt: `benchopt run benchmarks/rule_selection`."""

from benchopt import BaseObjective

from mipprune.bench.layout import ObjectiveParts


class Objective(ObjectiveParts, BaseObjective):
    name = "Rules of tree ensembles"
    min_benchopt_version = "1.7"
