"""Stable rule sets as scikit-learn estimators (MOSS)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from ..core.problem import Problem
from ..core.solver import Budget
from ..errors import InvalidProblem
from ..formulations import stability_levels, stable_rules
from ..losses.logistic import Logistic
from ..rules import QuantileBinner, RuleMatrix, binned_candidates, binned_key, extract_rules, weighted_sum_rules
from ..rules.model import RuleModel, readable
from ..solvers import CuttingPlanes, FrontierPoint, frontier, frontier_upwards
from .frontier import ParetoFrontier
from .rule_extractor import RuleExtractorClassifier, RuleExtractorRegressor
from .rule_extractor_base import RuleExtractor

__all__ = ["StableRules", "StableRulesClassifier"]

Array = np.ndarray[Any, Any]

_NAMED = {"frequent": 1, "high": 4, "medium": 50}


class _Stable(RuleExtractor):
    """What regression and classification share: candidates, the chain of levels, the chosen set, the frontier."""

    def __init__(
        self,
        n_rules: int = 15,
        *,
        level: str | int = "medium",
        gamma: float | None = None,
        n_estimators: int = 500,
        max_depth: int = 2,
        max_features: float = 1.0 / 3.0,
        bins: int = 10,
        columns: str = "value",
        debias: float = 1e-3,
        gap: float = 0.05,
        time_limit: float | None = 5.0,
        solver: CuttingPlanes | None = None,
        ensemble: Any = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.n_rules = n_rules
        self.level = level
        self.gamma = gamma  # type: ignore[assignment]
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.max_features = max_features
        self.bins = bins
        self.columns = columns
        self.debias = debias
        self.gap = gap
        self.time_limit = time_limit
        self.solver = solver
        self.ensemble = ensemble
        self.random_state = random_state
        self.n_jobs = n_jobs

    # ------------------------------------------------------------------------------------------ candidates

    def _candidates(self, X: Array, y: Array, weights: Array) -> RuleMatrix:
        """Rules, the most frequent first."""
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        uniform = bool((weights == weights[0]).all())
        binner: QuantileBinner | None
        names = getattr(self, "feature_names_in_", None)
        if self.ensemble is None:
            found = binned_candidates(
                X,
                y,
                trees=self.n_estimators,
                depth=self.max_depth,
                share=self.max_features,
                bins=self.bins,
                columns=self.columns,
                classes=self._classes,
                sample_weight=None if uniform else weights,
                seed=seed,
                threads=self.n_jobs,
            )
            rules, binner, ensemble = found.rules, found.binner, found.forest
        else:
            # The leaves of a fitted forest are in the units of its own response: its columns are taken as 0/1.
            ensemble, binner, columns = self.ensemble, None, "indicator"
            try:
                check_is_fitted(ensemble)
            except NotFittedError:
                binner, columns = QuantileBinner(self.bins, distinct=self.bins), self.columns
                ensemble = clone(ensemble).fit(binner.fit_transform(X), y)
            rules = extract_rules(ensemble, X, nodes="leaves", columns=columns, binner=binner).unique(by="rule")
            rules = rules.take(np.argsort(-rules.count, kind="stable"))
        self.ensemble_, self.binner_, self.n_candidates_ = ensemble, binner, len(rules)
        return rules if names is None else replace(rules, feature_names=tuple(map(str, names)))

    # ------------------------------------------------------------------------------------------ choosing

    def _strength(self, n: int) -> float:
        """The published settings of gamma unless one is given."""
        if self.gamma is not None:
            return float(self.gamma)
        high = isinstance(self.level, str) and self.level in ("frequent", "high")
        return (0.05 if high else 0.01) if n <= 1000 else (0.01 if high else 0.001)

    def _at_least(self, rules: RuleMatrix, response: Array, weights: Array, center: float, least: int) -> Problem:
        problem = stable_rules(
            rules,
            response,
            count=min(self.n_rules, len(rules)),
            least=least,
            gamma=self._strength(len(response)),
            loss="logistic" if self._classes else "squared",
            sample_weight=None if bool((weights == 1).all()) else weights * (len(weights) / weights.sum()),
        )
        if isinstance(problem.loss, Logistic):
            return replace(problem, loss=replace(problem.loss, offset=torch.tensor(center, dtype=torch.float64)))
        return problem

    def _place(self, levels: Sequence[int]) -> int:
        """The place on the list of levels, counted from 1."""
        level = self.level
        place = _NAMED.get(level) if isinstance(level, str) else level
        if place is None or isinstance(place, bool) or not isinstance(place, Integral) or place < 1:
            raise InvalidProblem(
                f"level is {level!r}; choose 'frequent', 'high', 'medium', 'low', or a place >= 1 on the list of levels"
            )
        return min(int(place), len(levels))

    def _chain(self, rules: RuleMatrix, response: Array, weights: Array, center: float) -> tuple[FrontierPoint, ...]:
        """The points on the way to the level asked for: places 1, 2, 4, 8, ... of the list."""
        solver, budget = self.solver or CuttingPlanes("own"), Budget(seconds=self.time_limit, gap=self.gap)
        start = None
        if self.level == "low":
            chain, start = self._low(rules, response, weights, center)
        else:
            levels = stability_levels(rules.count, min(self.n_rules, len(rules)))
            target = self._place(levels)
            places = [1 << power for power in range(int(math.log2(target)) + 1)]
            chain = [levels[place - 1] for place in dict.fromkeys([*places, target])]
        problems = [self._at_least(rules, response, weights, center, least) for least in chain]
        return frontier(problems, solver=solver, budget=budget, start=start)

    def _low(self, rules: RuleMatrix, response: Array, weights: Array, center: float) -> tuple[list[int], Any]:
        """The most accurate set of the weighted sum: bounded at the stability that it happens to have."""
        free = self._at_least(rules, response, weights, center, 0)
        sets = weighted_sum_rules(rules.matrix.toarray(), response, rules.count, self.n_rules)
        points = [free.loss.minimise_on(torch.from_numpy(mask)) for mask in sets]
        if not points:
            return [0], None
        best = int(np.argmin([free.loss.value(point) for point in points]))
        return [int(rules.count[sets[best]].sum())], points[best]

    def _fit(self, X: Array, y: Array, weights: Array) -> None:
        response, center, scale = self._centered(y, weights)
        rules = self._candidates(X, response, weights)
        mask = np.zeros(len(rules), dtype=bool)
        self.frontier_: tuple[FrontierPoint, ...] = ()
        if len(rules):
            self.frontier_ = self._chain(rules, response, weights, center)
            last = self.frontier_[-1]
            mask = mask if last.mask is None else last.mask.numpy()
            self.problem_, self.solution_ = last.problem, last.solution
            self.objective_, self.gap_ = last.solution.value, last.checked_gap
            self.lower_bound_, self.claimed_bound_ = last.proven, last.claimed
        chosen = rules.take(mask)
        model = self._model(chosen, X, response, weights, center, scale)
        order = np.argsort(-np.abs(model.coef), kind="stable")
        self._adopt(model.sorted())
        self.frequencies_ = chosen.frequency[order]
        self.keys_ = tuple(binned_key(chosen.rules[j], self.binner_) for j in order)
        self.stability_ = float(chosen.frequency.sum())

    def _model(
        self, rules: RuleMatrix, X: Array, response: Array, weights: Array, center: float, scale: float
    ) -> RuleModel:
        """Refit the weights of chosen columns; a column of values is a multiple of the 0/1 rule. Not sorted."""
        columns = np.asarray(rules.matrix.toarray())
        coef, intercept = self._refit(columns, response, weights, center)
        names = rules.feature_names
        return RuleModel(
            rules=readable(rules.rules, X),
            coef=scale * coef * rules.scale,
            intercept=scale * intercept + (0.0 if self._classes else center),
            coverage=np.average(columns != 0, axis=0, weights=weights) if len(rules) else np.zeros(0),
            frequency=rules.frequency,
            feature_names=names if names is not None else tuple(f"x{j}" for j in range(X.shape[1])),
            response="score" if self._classes else "prediction",
        )

    # ------------------------------------------------------------------------------------------ the frontier

    def path(  # type: ignore[override]
        self, X: Any, y: Any, sample_weight: Any = None, *, points: int | None = 50
    ) -> ParetoFrontier:
        """Return the frontier between stability and error: one model for each level, with both grounds of its bound.

        Parameters
        ----------
        X, y, sample_weight
            As in ``fit``; the estimator is left unfitted except for the ensemble.
        points : int or None
            How many levels of the published list, from the most stable on. ``None`` walks the whole frontier from the
            most accurate set upwards, level by level.

        Returns
        -------
        ParetoFrontier
            Of :class:`~mipprune.rules.RuleModel`; rows with level, stability, rules, error (1 - R^2 on the samples, or
            the mean logistic loss), objective, bound (proven by a tangent), claimed (by the back end) and gap.
        """
        X, y, weights = self._checked(X, y, sample_weight)
        if self._classes:
            self.classes_, y = np.unique(y, return_inverse=True)
            y = y.astype(np.float64)
        response, center, scale = self._centered(y, weights)
        rules = self._candidates(X, response, weights)
        if len(rules) == 0:
            raise InvalidProblem("the ensemble has no rules: every tree is a single leaf")
        solver, budget = self.solver or CuttingPlanes("own"), Budget(seconds=self.time_limit, gap=self.gap)

        def build(least: int) -> Problem:
            return self._at_least(rules, response, weights, center, least)

        def level(point: FrontierPoint) -> int:
            return 0 if point.mask is None else int(rules.count[point.mask.numpy()].sum())

        if points is None:
            top = stability_levels(rules.count, min(self.n_rules, len(rules)))[0]
            found = frontier_upwards(build, level, solver=solver, budget=budget, last=top)
        else:
            levels = stability_levels(rules.count, min(self.n_rules, len(rules)))[:points]
            found = frontier([build(least) for least in levels], solver=solver, budget=budget)
        models, rows = [], []
        for point in found:
            if point.mask is None:
                continue
            model = self._model(rules.take(point.mask.numpy()), X, response, weights, center, scale).sorted()
            row = {
                "level": level(point),
                "stability": level(point) / rules.trees,
                "rules": len(model),
                "error": self._error(model(X), y, weights, scale),
                "objective": point.solution.value,
                "bound": point.proven,
                "claimed": point.claimed,
                "gap": point.checked_gap,
                "seconds": point.seconds,
            }
            models.append(model)
            rows.append(row)
        return ParetoFrontier(tuple(models), tuple(rows), x="error", y="stability", larger=("stability",))

    def _error(self, predicted: Array, y: Array, weights: Array, scale: float) -> float:
        if self._classes:
            return float(np.average(np.logaddexp(0.0, -(2.0 * y - 1.0) * predicted), weights=weights))
        return float(np.average((y - predicted) ** 2, weights=weights)) / (scale * scale)


class StableRules(_Stable, RuleExtractorRegressor):
    r"""Regression by a small set of rules that a forest finds again and again.

    Parameters
    ----------
    n_rules : int
        Largest number of rules.
    level : {"frequent", "high", "medium", "low"} or int
        How stable the set must be: a place on the list of levels that :func:`mipprune.formulations.stability_levels`
        returns. ``"frequent"`` is 1 (the most frequent rules), ``"high"`` 4, ``"medium"`` 50; ``"low"`` is the most
        accurate set of the weighted-sum heuristic.
    gamma : float, optional
        Weight of the data against the ridge. Default: 0.05 for ``"frequent"`` and ``"high"``, 0.01 for the others;
        0.01 and 0.001 beyond 1,000 samples.
    n_estimators, max_depth, max_features, bins
        The forest: its trees, their depth, the share of features that a split may see, and the quantile bins.
    columns : {"value", "indicator"}
        What a rule contributes before it is weighted: the value of its leaf, or 1 (always 1 for a fitted ensemble).
    debias : float
        Ridge of the final regression on the chosen rules, > 0.
    gap : float
        Relative gap at which a set counts as optimal.
    time_limit : float, optional
        Seconds for each point of the frontier.
    solver : CuttingPlanes, optional
        Default: cutting planes with a tree of their own, so that every bound can be checked.
    ensemble : estimator, optional
        A forest to use instead: fitted (its thresholds are taken as they are), or to be fitted on the bins.
    random_state : int, RandomState or None
    n_jobs : int, optional
        For the forest.

    Attributes
    ----------
    rule_model_ : RuleModel
        ``rules_``, ``coef_`` (what is added to the prediction where a rule holds) and ``intercept_`` are parts of it.
    frequencies_ : array (rules,)
        Share of the trees that contain the rule.
    keys_ : tuple
        The rules by numbers of quantile bins, to compare sets of several samples with
        :func:`mipprune.rules.dice_sorensen`.
    stability_ : float
        Sum of the frequencies.
    objective_, lower_bound_, claimed_bound_, gap_
        Value of the set, the bound that a stored tangent proves, the one that the back end claims (or ``None``), and
        the gap to the proven one.
    frontier_ : tuple of FrontierPoint
        The points on the way to the level.
    problem_, solution_
        Of the last point, for ``mipprune.check``.
    ensemble_, binner_, n_candidates_, n_features_in_, feature_names_in_

    References
    ----------
    arXiv 2506.08030 (MOSS).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
    >>> model = StableRules(n_rules=8, n_estimators=100, level=4, random_state=0).fit(X, y)
    >>> len(model.rules_) <= 8, model.gap_ < 0.05, model.score(X, y) > 0.4
    (True, True, True)
    """


class StableRulesClassifier(_Stable, RuleExtractorClassifier):
    r"""Binary classification by a small set of rules that a forest finds again and again.

    Parameters and attributes are those of :class:`StableRules`, with ``classes_`` (2,) besides; ``coef_`` and
    ``intercept_`` are in log-odds of the second class, and the rules are chosen by the logistic loss. With columns of
    values, the value of a leaf is its share of the second class.

    References
    ----------
    arXiv 2506.08030 (MOSS), its remark on classification; the cut for the logistic loss is derived in
    :class:`~mipprune.losses.Logistic`.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = StableRulesClassifier(n_rules=5, n_estimators=50, level=2, random_state=0).fit(X, y)
    >>> len(model.rules_) <= 5, model.score(X, y) > 0.9
    (True, True)
    """
