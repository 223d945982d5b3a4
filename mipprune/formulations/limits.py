"""Reading budgets and costs that users give in the usual forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidProblem

__all__ = ["as_limit", "per_layer"]


def as_limit(budget: Any, dense: Fraction, name: str) -> float:
    """Return a budget as a number.

    Parameters
    ----------
    budget : int or float
        A whole number (of Python or numpy) is the budget itself; a float is a share of the dense network, in [0, 1].
    dense : Fraction
        What the dense network uses.
    name : str
        How to call the budget in a message.

    Returns
    -------
    float
        Rounded down to a whole number when ``dense`` is one: no sum of whole costs lies between.
    """
    if isinstance(budget, (bool, str)) or not isinstance(budget, (int, float, np.number)):
        raise InvalidProblem(f"{name} is {budget!r}; give a whole number, or a share of the dense network in [0, 1]")
    if isinstance(budget, (int, np.integer)):
        if budget < 0:
            raise InvalidProblem(f"{name} is {budget}; a budget is >= 0")
        return float(budget)
    if not 0.0 <= float(budget) <= 1.0:
        raise InvalidProblem(
            f"{name} is {budget}; a float is a share of the dense network in [0, 1], an absolute budget must be a "
            "whole number (an int)"
        )
    share = Fraction(repr(float(budget))) * dense  # 0.3 of 10 is 3, whatever 0.3 * 10 rounds to
    return float(math.floor(share)) if dense.denominator == 1 else float(share)


def per_layer(data: Any, names: Sequence[str] | None, layers: int, name: str) -> Tensor:
    """Return numbers given by name, in order, or once for all layers as a float64 vector (layers,)."""
    if isinstance(data, Mapping):
        if names is None:
            raise InvalidProblem(f"{name} are given by name, but the layers have none: give the scores by name too")
        missing = [key for key in names if key not in data]
        if missing:
            raise InvalidProblem(f"{name} has no entry for layer {missing[0]!r} ({len(missing)} are missing)")
        data = [data[key] for key in names]
    try:
        if isinstance(data, Tensor):
            numbers = data.detach().to(device="cpu", dtype=torch.float64).reshape(-1)
        else:  # torch would read plain numbers in float32
            numbers = torch.from_numpy(np.array(data, dtype=np.float64)).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidProblem(f"{name} cannot be read as numbers ({error})") from error
    if numbers.numel() == 1 and layers > 1:
        numbers = numbers.expand(layers).clone()
    if numbers.numel() != layers:
        raise InvalidProblem(f"{name} has {numbers.numel()} numbers for {layers} layers; one for each is needed")
    return numbers
