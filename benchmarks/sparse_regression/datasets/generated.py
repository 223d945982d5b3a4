"""Seeded instances."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "generated"
    family = "sparse_regression"
    parameters = {"instance": instances("sparse_regression"), "seed": [0]}
