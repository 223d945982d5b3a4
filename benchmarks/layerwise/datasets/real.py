"""Instances made of real data: of packages, and of the folder that the variable MIPPRUNE_BENCH_DATA names."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "real"
    family = "layerwise"
    parameters = {"instance": instances("layerwise", "real"), "seed": [0]}
