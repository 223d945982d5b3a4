"""Seeded instances."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "generated"
    family = "layerwise"
    parameters = {"instance": instances("layerwise"), "seed": [0]}
