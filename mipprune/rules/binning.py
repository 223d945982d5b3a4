"""Quantile bins of features, with edges from the training data only."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..errors import InvalidProblem

__all__ = ["QuantileBinner"]


class QuantileBinner:
    """Replace the values of each feature by the number of their quantile bin.

    Rules from a forest that was fitted on such codes have thresholds from a short list, which is what makes them
    comparable between samples of the data.

    Parameters
    ----------
    bins : int
        Most bins of a feature, >= 2.
    distinct : int
        Features with fewer distinct values stay as they are.

    Attributes
    ----------
    edges_ : list of (array or None)
        Increasing edges of each feature; ``None`` where it stays as it is. The code of x is the number of edges
        below x, so that ``code <= c`` says the same as ``x <= edges[c]``.

    References
    ----------
    SIRUS (Benard et al. 2021) and arXiv 2506.08030 (MOSS): 10 bins for features with at least 10 distinct values.

    Examples
    --------
    >>> binner = QuantileBinner(bins=2, distinct=3).fit([[1.0], [2.0], [3.0], [4.0]])
    >>> binner.transform([[0.0], [2.0], [9.0]]).ravel().tolist()
    [0.0, 0.0, 1.0]
    """

    edges_: list[np.ndarray[Any, Any] | None]

    def __init__(self, bins: int = 10, distinct: int = 10) -> None:
        if bins < 2 or distinct < 1:
            raise InvalidProblem(f"bins is {bins} and distinct {distinct}; at least 2 bins and 1 value are needed")
        self.bins, self.distinct = bins, distinct

    def fit(self, X: Any, y: Any = None) -> Self:
        """Take the edges from X, shape (n, features); missing values are left out."""
        X = _matrix(X)
        self.edges_ = []
        for x in X.T:
            x = x[~np.isnan(x)]
            if len(np.unique(x)) < self.distinct:
                self.edges_.append(None)
                continue
            # Observed values as edges: interpolated ones would make the last digits of thresholds matter.
            edges = np.unique(np.quantile(x, np.arange(1, self.bins) / self.bins, method="inverted_cdf"))
            self.edges_.append(edges[edges < x.max()])
        return self

    def transform(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the codes, float64 of the shape of X; missing values stay missing."""
        if not hasattr(self, "edges_"):
            raise InvalidProblem("the binner has no edges yet; call fit with the training data first")
        X = _matrix(X)
        if X.shape[1] != len(self.edges_):
            raise InvalidProblem(f"X has {X.shape[1]} features, the binner was fitted on {len(self.edges_)}")
        codes: np.ndarray[Any, Any] = X.copy()
        for j, edges in enumerate(self.edges_):
            if edges is not None:
                codes[:, j] = np.where(np.isnan(X[:, j]), np.nan, np.searchsorted(edges, X[:, j], side="left"))
        return codes

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray[Any, Any]:
        """Take the edges from X and return its codes."""
        return self.fit(X).transform(X)

    def thresholds(self, feature: int, codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return thresholds on the codes of a feature in the units of the feature."""
        edges = self.edges_[feature]
        if edges is None:
            return codes
        padded = np.concatenate([[-np.inf], edges, [np.inf]])
        found: np.ndarray[Any, Any] = padded[np.clip(np.floor(codes).astype(np.int64) + 1, 0, len(padded) - 1)]
        return found


def _matrix(X: Any) -> np.ndarray[Any, Any]:
    out: np.ndarray[Any, Any] = np.asarray(X, dtype=np.float64)
    if out.ndim != 2:
        raise InvalidProblem(f"X has shape {out.shape}; a matrix (samples, features) is needed")
    return out
