"""Few readable rules from a tree ensemble, as scikit-learn estimators."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from ..losses.logistic import Logistic
from .rule_extractor_base import RuleExtractor

__all__ = ["RuleExtractorClassifier", "RuleExtractorRegressor"]

Array = np.ndarray[Any, Any]


class RuleExtractorRegressor(RegressorMixin, RuleExtractor):
    """Regression by a few rules of a tree ensemble, chosen with a proven bound.

    Parameters
    ----------
    ensemble : estimator, optional
        Where rules come from: trees, a forest or gradient boosting of scikit-learn, XGBoost or LightGBM, fitted (it is
        taken as it is) or not. Default: a random forest, see ``n_estimators`` and ``max_depth``.
    n_rules : int
        Most rules.
    max_depth, n_estimators : int
        Depth and number of the trees of the default forest, whose splits look at a third of the features.
    depth_weight : float
        Price of a rule for each split and one more, in units of the objective (half the squared error of the
        standardised response, or log-loss), >= 0. Charges depth, so that shorter rules are chosen.
    gamma : float
        Inverse ridge of the choice, > 0; the weights are fitted again afterwards.
    antichain : bool
        At most one rule on every path of a tree, so that those of a tree hold for disjoint samples. ``False`` merges
        equal rules of all trees instead.
    solver : {"auto", "swaps", "tree"} or Solver
        Descent over trees with exchanges, exchanges with restarts, branch and bound, or an object.
    bound : bool
        Bound the optimum and state the gap.
    debias : float
        Ridge of the final fit on the chosen rules, > 0.
    time_limit : float, optional
        Seconds for the choice, and again for the bound.
    gap : float
        Relative gap at which a choice counts as optimal.
    random_state : int, RandomState or None
    n_jobs : int, optional
        For the default forest.

    Attributes
    ----------
    rules_ : tuple of Rule
        The strongest first; redundant conditions merged, thresholds in as few digits as tell the samples apart.
    coef_, intercept_
        What is added where a rule holds, and always.
    rule_model_ : RuleModel
    objective_, lower_bound_, gap_
        Value of the choice, the proven bound of the optimum, and the relative gap (``None`` without a bound).
    problem_, solution_
        For ``mipprune.check(problem_, solution_)``.
    ensemble_, n_candidates_, n_features_in_, feature_names_in_

    References
    ----------
    arXiv 2506.20114.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = RuleExtractorRegressor(n_rules=5, n_estimators=50, random_state=0).fit(X, y)
    >>> len(model.rules_), model.gap_ < 0.05, model.score(X, y) > 0.4
    (5, True, True)
    >>> model.export("sql", table="patients").startswith("SELECT")
    True
    """

    _classes = False

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose rules and fit their weights.

        Parameters
        ----------
        X : array or DataFrame (n, features)
            Missing values are NaN, if the ensemble takes them.
        y : array (n,)
        sample_weight : array (n,), optional
            Weights >= 0; samples of weight 0 are left out.
        """
        X, y, weights = self._checked(X, y, sample_weight)
        self._fit(X, np.asarray(y, dtype=np.float64), weights)
        return self

    def _centered(self, y: Array, weights: Array) -> tuple[Array, float, float]:
        center = float(np.average(y, weights=weights))
        scale = math.sqrt(float(np.average((y - center) ** 2, weights=weights))) or 1.0
        return (y - center) / scale, center, scale

    def _refit(self, columns: Array, response: Array, weights: Array, center: float) -> tuple[Array, float]:
        if columns.shape[1] == 0:
            return np.zeros(0), 0.0
        middle = np.average(columns, axis=0, weights=weights)
        held = (columns - middle) * np.sqrt(weights)[:, None]
        system = held.T @ held + self.debias * np.eye(held.shape[1])
        coef = np.linalg.solve(system, held.T @ (response * np.sqrt(weights)))
        return coef, -float(middle @ coef)

    def predict(self, X: Any) -> Array:
        """Return the prediction for samples X (n, features)."""
        samples = self._samples(X)
        return self.rule_model_(samples)


class RuleExtractorClassifier(ClassifierMixin, RuleExtractor):
    """Binary classification by a few rules of a tree ensemble, chosen by the logistic loss with a proven bound.

    Parameters and attributes are those of :class:`RuleExtractorRegressor`, with ``classes_`` (2,) besides; ``coef_``
    and ``intercept_`` are in log-odds of the second class. The share of that class in the sample is given before the
    rules are chosen.

    References
    ----------
    arXiv 2506.20114 for the choice; logistic loss as in the supplement of arXiv 2506.08030.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = RuleExtractorClassifier(n_rules=5, n_estimators=20, random_state=0).fit(X, y)
    >>> len(model.rules_) <= 5, model.score(X, y) > 0.93
    (True, True)
    """

    _classes = True

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that there are two classes only."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose rules and fit their weights; see :meth:`RuleExtractorRegressor.fit`."""
        X, y, weights = self._checked(X, y, sample_weight)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) > 2:
            raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
        if len(self.classes_) < 2:
            raise ValueError(f"Classifier can't train when only one class is present: {self.classes_}.")
        self._fit(X, labels.astype(np.float64), weights)
        return self

    def _centered(self, y: Array, weights: Array) -> tuple[Array, float, float]:
        share = float(np.average(y, weights=weights))
        return y, math.log(share / (1.0 - share)), 1.0

    def _refit(self, columns: Array, response: Array, weights: Array, center: float) -> tuple[Array, float]:
        design = np.column_stack([columns, np.ones(len(columns))])
        ridge = np.full(design.shape[1], self.debias)
        ridge[-1] = 1e-9  # the intercept is free; with two classes present it is finite
        loss = Logistic(
            torch.from_numpy(design), torch.from_numpy(response), torch.from_numpy(ridge), torch.from_numpy(weights)
        )
        begin = torch.zeros(design.shape[1], dtype=torch.float64)
        begin[-1] = center
        found = loss.minimise_on(torch.ones(design.shape[1], dtype=torch.bool), start=begin).numpy()
        return found[:-1], float(found[-1])

    def decision_function(self, X: Any) -> Array:
        """Return the log-odds of the second class, shape (n,)."""
        samples = self._samples(X)
        return self.rule_model_(samples)

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of both classes, shape (n, 2)."""
        score = self.decision_function(X)
        second = 1.0 / (1.0 + np.exp(-np.clip(score, -700.0, 700.0)))
        return np.stack([1.0 - second, second], axis=1)

    def predict(self, X: Any) -> Array:
        """Return the more likely class of each sample."""
        score = self.decision_function(X)
        found: Array = self.classes_[(score > 0).astype(np.int64)]
        return found
