"""Instances made of real data: of packages, and of the folder that the variable MIPPRUNE_BENCH_DATA names."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "real"
    family = "graphical_models"
    parameters = {"instance": instances("graphical_models", "real"), "seed": [0]}
