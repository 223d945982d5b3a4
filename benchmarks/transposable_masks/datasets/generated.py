"""Seeded instances."""

from benchopt import BaseDataset

from mipprune.bench.layout import DatasetParts, instances


class Dataset(DatasetParts, BaseDataset):
    name = "generated"
    family = "transposable_masks"
    parameters = {"instance": instances("transposable_masks"), "seed": [0]}
