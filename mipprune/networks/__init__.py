"""Real networks: finding their layers, calibrating, pruning, evaluating, loading and saving them."""

from __future__ import annotations

from mipprune.networks.calibration import calibrate
from mipprune.networks.gram import Gram
from mipprune.networks.modules import PrunableLayer, Skipped, Survey, prunable, survey

__all__ = ["Gram", "PrunableLayer", "Skipped", "Survey", "calibrate", "prunable", "survey"]
