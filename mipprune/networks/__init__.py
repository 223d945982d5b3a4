"""Real networks: finding their layers, calibrating, pruning, evaluating, loading and saving them."""

from __future__ import annotations

from mipprune.networks.allocation import Allocated, Allocation, allocate
from mipprune.networks.blocks import Block, blocks
from mipprune.networks.budget_report import BudgetReport, LayerShare, StageRow
from mipprune.networks.budgeted import kept_shares, prune_to_budgets, pruning_problem
from mipprune.networks.calibration import calibrate
from mipprune.networks.channels import ChannelGraph, PrunedChannels, channel_graph, prune_channels
from mipprune.networks.costs import weight_costs, weight_macs
from mipprune.networks.data import calibration_batches, image_tensor, read_arrays
from mipprune.networks.evaluate import Fidelity, accuracy, embeddings, fidelity, perplexity
from mipprune.networks.gradients import FlatWeights, sample_gradients
from mipprune.networks.gram import Gram
from mipprune.networks.load import Loaded, find_gguf, find_model, load
from mipprune.networks.modules import PrunableLayer, Skipped, Survey, prunable, survey
from mipprune.networks.prune import LayerProgress, StructureChoice, prune
from mipprune.networks.report import LayerRow, Report
from mipprune.networks.sequential import BlockWalker, Stage
from mipprune.networks.text import english_text, read_text, text_batches, token_blocks

__all__ = [
    "Allocated",
    "Allocation",
    "Block",
    "BlockWalker",
    "BudgetReport",
    "ChannelGraph",
    "Fidelity",
    "FlatWeights",
    "Gram",
    "LayerProgress",
    "LayerRow",
    "LayerShare",
    "Loaded",
    "PrunableLayer",
    "PrunedChannels",
    "Report",
    "Skipped",
    "Stage",
    "StageRow",
    "StructureChoice",
    "Survey",
    "accuracy",
    "allocate",
    "blocks",
    "calibrate",
    "calibration_batches",
    "channel_graph",
    "embeddings",
    "english_text",
    "fidelity",
    "find_gguf",
    "find_model",
    "image_tensor",
    "kept_shares",
    "load",
    "perplexity",
    "prunable",
    "prune",
    "prune_channels",
    "prune_to_budgets",
    "pruning_problem",
    "read_arrays",
    "read_text",
    "sample_gradients",
    "survey",
    "text_batches",
    "token_blocks",
    "weight_costs",
    "weight_macs",
]
