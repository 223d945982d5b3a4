"""Seeded instances."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "generated"
    family = "flop_selection"
    parameters = {"instance": instances("flop_selection"), "seed": [0]}
