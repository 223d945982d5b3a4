"""Seeded instances."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "generated"
    family = "graphical_models"
    parameters = {"instance": instances("graphical_models"), "seed": [0]}
