"""Builders: each turns the data of an application into one Problem."""

from __future__ import annotations

from .allocation import allocation
from .channels import CoupledLayer, channel_widths, width_options
from .flops import flop_selection, lamp_scores
from .graphs import covariance_of, graphical_model, likelihood_refit
from .layers import layer_pruning
from .layerwise import layerwise
from .masks import transposable_mask
from .multitask import MultitaskData, multitask_regression
from .network import network_pruning
from .regression import RegressionData, sparse_regression
from .rules import rule_selection
from .stable import most_frequent, stability_levels, stable_rules

__all__ = [
    "CoupledLayer",
    "MultitaskData",
    "RegressionData",
    "allocation",
    "channel_widths",
    "covariance_of",
    "flop_selection",
    "graphical_model",
    "lamp_scores",
    "layer_pruning",
    "layerwise",
    "likelihood_refit",
    "most_frequent",
    "multitask_regression",
    "network_pruning",
    "rule_selection",
    "sparse_regression",
    "stability_levels",
    "stable_rules",
    "transposable_mask",
    "width_options",
]
