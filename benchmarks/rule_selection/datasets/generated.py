"""Seeded instances."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "generated"
    family = "rule_selection"
    parameters = {"instance": instances("rule_selection"), "seed": [0]}
