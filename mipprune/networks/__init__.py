"""Real networks: finding their layers, calibrating, pruning, evaluating, loading and saving them."""

from __future__ import annotations

from mipprune.networks.blocks import Block, blocks
from mipprune.networks.calibration import calibrate
from mipprune.networks.gram import Gram
from mipprune.networks.modules import PrunableLayer, Skipped, Survey, prunable, survey
from mipprune.networks.sequential import BlockWalker, Stage

__all__ = [
    "Block",
    "BlockWalker",
    "Gram",
    "PrunableLayer",
    "Skipped",
    "Stage",
    "Survey",
    "blocks",
    "calibrate",
    "prunable",
    "survey",
]
