"""What the rule extractors share: the ensemble, its rules, the choice, the bound, the model, the path."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ..core.problem import Problem
from ..core.solution import Solution
from ..core.solver import Budget, Solver
from ..errors import InvalidProblem
from ..formulations.rules import rule_selection
from ..losses.logistic import Logistic
from ..rules.export import export_rules
from ..rules.extraction import extract_rules
from ..rules.matrix import RuleMatrix, evaluate
from ..rules.model import RuleModel, readable
from ..solve import solve
from ..solvers.bounds.relaxation import certify
from ..solvers.branch_and_bound import BranchAndBound
from ..solvers.rules.reweighted_rules import ReweightedRules
from ..solvers.rules.rule_swaps import RuleSwaps
from ..solvers.rules.tree_descent import TreeDescent
from .frontier import ParetoFrontier

__all__ = ["RuleExtractor"]

Array = np.ndarray[Any, Any]


class RuleExtractor(BaseEstimator):
    """The common part of :class:`RuleExtractorRegressor` and :class:`RuleExtractorClassifier`."""

    _classes: bool

    def __init__(
        self,
        ensemble: Any = None,
        n_rules: int = 10,
        *,
        max_depth: int = 3,
        depth_weight: float = 0.0,
        gamma: float = 0.01,
        antichain: bool = True,
        n_estimators: int = 100,
        solver: Any = "auto",
        bound: bool = True,
        debias: float = 1e-3,
        time_limit: float | None = 30.0,
        gap: float = 1e-4,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.ensemble = ensemble
        self.n_rules = n_rules
        self.max_depth = max_depth
        self.depth_weight = depth_weight
        self.gamma = gamma
        self.antichain = antichain
        self.n_estimators = n_estimators
        self.solver = solver
        self.bound = bound
        self.debias = debias
        self.time_limit = time_limit
        self.gap = gap
        self.random_state = random_state
        self.n_jobs = n_jobs

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that missing values may be given."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # ------------------------------------------------------------------------------------------ fitting

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Array, Array, Array]:
        if isinstance(self.n_rules, bool) or not isinstance(self.n_rules, Integral) or self.n_rules < 1:
            raise InvalidProblem(f"n_rules is {self.n_rules!r}; it must be a whole number >= 1")
        if not self.debias > 0:
            raise InvalidProblem(f"debias is {self.debias}; it is a ridge and must be > 0")
        options: dict[str, Any] = {} if self._classes else {"y_numeric": True}
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", **options)
        weights = np.ones(len(y))
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
            if len(y) == 0:
                raise InvalidProblem("all samples have weight 0; there is nothing to fit")
        return X, y, weights

    def _fitted_ensemble(self, X: Array, y: Array, weights: Array) -> Any:
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        if self.ensemble is None:
            kind = RandomForestClassifier if self._classes else RandomForestRegressor
            forest = kind(
                self.n_estimators,
                max_depth=self.max_depth,
                max_features=1.0 / 3.0,
                random_state=seed,
                n_jobs=self.n_jobs,
            )
            return forest.fit(X, y, sample_weight=weights)
        try:
            check_is_fitted(self.ensemble)
        except NotFittedError:
            ensemble = clone(self.ensemble)
            if "random_state" in ensemble.get_params() and ensemble.get_params()["random_state"] is None:
                ensemble.set_params(random_state=seed)
            uniform = bool((weights == weights[0]).all())
            return ensemble.fit(X, y) if uniform else ensemble.fit(X, y, sample_weight=weights)
        return self.ensemble

    def _candidates(self, X: Array, y: Array, weights: Array) -> RuleMatrix:
        self.ensemble_ = self._fitted_ensemble(X, y, weights)
        names = getattr(self, "feature_names_in_", None)
        rules = extract_rules(self.ensemble_, X, feature_names=None if names is None else list(names))
        rules = rules if self.antichain else rules.unique()
        self.n_candidates_ = len(rules)
        return rules

    def _centered(self, y: Array, weights: Array) -> tuple[Array, float, float]:
        """Return the response that rules are chosen for, with its center and scale."""
        raise InvalidProblem("an estimator of its own must say how it centers the response")

    def _problem(
        self, rules: RuleMatrix, response: Array, weights: Array, center: float, *, count: int | None, price: float
    ) -> Problem:
        problem = rule_selection(
            rules,
            response,
            gamma=self.gamma,
            count=None if count is None else min(int(count), len(rules)),
            price=price,
            charge="depth",
            loss="logistic" if self._classes else "squared",
            sample_weight=None if bool((weights == 1).all()) else weights * (len(weights) / weights.sum()),
        )
        if isinstance(problem.loss, Logistic):
            return replace(problem, loss=replace(problem.loss, offset=torch.tensor(center, dtype=torch.float64)))
        return problem

    def _solver(self) -> Solver:
        named: dict[str, Solver] = {
            "auto": ReweightedRules()
            if self._classes
            else (TreeDescent() if self.antichain else RuleSwaps(restarts=10)),
            "swaps": ReweightedRules(exchanges=True) if self._classes else RuleSwaps(restarts=10),
            "tree": BranchAndBound(),
        }
        if isinstance(self.solver, str):
            if self.solver not in named:
                raise InvalidProblem(f"solver is {self.solver!r}; choose {', '.join(map(repr, named))}, or a Solver")
            return named[self.solver]
        if isinstance(self.solver, type) or not isinstance(self.solver, Solver):
            raise InvalidProblem(f"solver is {self.solver!r}, which is no solver object such as mipprune.RuleSwaps()")
        return self.solver

    def _certified(self, problem: Problem, solution: Solution) -> Solution:
        if not self.bound or solution.point is None or solution.gap_closed:
            return solution
        # Newton steps in n unknowns make an iteration of the logistic relaxation dear; 60 come close.
        budget = Budget(seconds=self.time_limit, gap=self.gap)
        iterations = 60 if self._classes else 300
        return certify(problem, solution, budget=budget, iterations=iterations, strength=1.0, splits=0)

    def _fit(self, X: Array, y: Array, weights: Array) -> None:
        solver = self._solver()
        rules = self._candidates(X, y, weights)
        response, center, scale = self._centered(y, weights)
        mask = np.zeros(len(rules), dtype=bool)
        if len(rules):
            self.problem_ = self._problem(rules, response, weights, center, count=self.n_rules, price=self.depth_weight)
            budget = Budget(seconds=self.time_limit, gap=self.gap)
            start = None
            if isinstance(solver, BranchAndBound) and not self._classes:  # a good point to begin with closes more nodes
                start = RuleSwaps(restarts=10).solve(self.problem_, budget=budget).point
            found = solve(self.problem_, solver, budget=budget, start=start)
            self.solution_ = self._certified(self.problem_, found)
            if self.solution_.mask is not None:
                mask = self.solution_.mask.numpy()
            self.objective_, self.gap_ = self.solution_.value, self.solution_.gap
            self.lower_bound_ = self.solution_.bound
        self._adopt(self._model(rules.take(mask), X, response, weights, center, scale))

    def _model(
        self, rules: RuleMatrix, X: Array, response: Array, weights: Array, center: float, scale: float
    ) -> RuleModel:
        """Refit the weights of chosen rules and return them in the units of the response."""
        columns = np.asarray(rules.matrix.toarray())
        coef, intercept = self._refit(columns, response, weights, center)
        names = rules.feature_names
        return RuleModel(
            rules=readable(rules.rules, X),
            coef=scale * coef,
            intercept=scale * intercept + (0.0 if self._classes else center),
            coverage=np.average(columns, axis=0, weights=weights) if len(rules) else np.zeros(0),
            frequency=rules.frequency,
            feature_names=names if names is not None else tuple(f"x{j}" for j in range(X.shape[1])),
            response="score" if self._classes else "prediction",
        ).sorted()

    def _refit(self, columns: Array, response: Array, weights: Array, center: float) -> tuple[Array, float]:
        """Return weights of the columns and the intercept, in units of the centered and scaled response."""
        raise InvalidProblem("an estimator of its own must say how it fits the weights of chosen rules")

    def _adopt(self, model: RuleModel) -> None:
        self.rule_model_, self.rules_ = model, model.rules
        self.coef_, self.intercept_ = model.coef, model.intercept

    # ------------------------------------------------------------------------------------------ the path

    def path(
        self, X: Any, y: Any, sample_weight: Any = None, *, points: int = 25, prices: Any = None, bound: bool = False
    ) -> ParetoFrontier:
        """Return the frontier between the number of rules and the error: one model for each price of a rule.

        Parameters
        ----------
        X, y, sample_weight
            As in ``fit``; the estimator is left unfitted except for ``ensemble_``.
        points : int
            Prices, from the least one that leaves no rule down to a thousandth of it.
        prices : sequence of float, optional
            Other prices of a rule, in units of half the squared error of the standardised response; with
            ``depth_weight > 0`` prices of one unit of depth, a rule costing its depth plus 1.
        bound : bool
            Bound every point (about a second each).

        Notes
        -----
        For the squared loss with antichains. Models of equal size and larger error are dominated; the frontier keeps
        and marks them.
        """
        if self._classes or not self.antichain:
            raise InvalidProblem("the path descends over trees: it is for regression with antichain=True")
        X, y, weights = self._checked(X, y, sample_weight)
        rules = self._candidates(X, y, weights)
        if len(rules) == 0:
            raise InvalidProblem("the ensemble has no rules: every tree is a single leaf")
        response, center, scale = self._centered(y, weights)
        base = self._problem(rules, response, weights, center, count=None, price=1.0 if self.depth_weight > 0 else 0.0)
        if prices is None:
            design = rules.matrix
            pull = np.square(design.T @ (response * weights * (len(weights) / weights.sum())))
            top = float((0.5 * pull / (rules.support + 1.0 / self.gamma)).max())
            prices = np.geomspace(max(top, 1e-9), 1e-3 * max(top, 1e-9), points)
        found = TreeDescent().path(base, [float(price) for price in prices], budget=Budget(seconds=self.time_limit))
        models, rows = [], []
        for at in found:
            chosen = rules.take((at.point != 0).numpy())
            model = self._model(chosen, X, response, weights, center, scale)
            error = float(np.average((y - model(X)) ** 2, weights=weights)) / (scale * scale)
            row = {
                "price": at.price,
                "rules": len(model),
                "conditions": sum(len(rule.conditions) for rule in model.rules),
                "error": error,
                "objective": at.value,
                "bound": None,
                "gap": None,
            }
            if bound:
                solution = certify(at.problem, at.point, iterations=300, strength=1.0, splits=0)
                row["bound"], row["gap"] = solution.bound, solution.gap
            models.append(model)
            rows.append(row)
        return ParetoFrontier(tuple(models), tuple(rows), x="error", y="rules")

    # ------------------------------------------------------------------------------------------ using it

    def rule_matrix(self, X: Any) -> Array:
        """Return which rules hold for which samples X (n, features): 0/1, shape (n, rules)."""
        return np.asarray(evaluate(self.rules_, self._samples(X)).toarray())

    def _samples(self, X: Any) -> Array:
        check_is_fitted(self, "rule_model_")
        found: Array = validate_data(self, X, reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
        return found

    def export(self, format: str = "text", *, digits: int | None = None, table: str = "data") -> str:
        """Return the rules written out; see :func:`mipprune.rules.export_rules`."""
        check_is_fitted(self, "rule_model_")
        return export_rules(self, format, digits=digits, table=table)

    def visualize(self) -> Any:
        """Return the rules as a pandas DataFrame: text, weight, coverage, frequency, depth."""
        import pandas as pd

        check_is_fitted(self, "rule_model_")
        return pd.DataFrame(self.rule_model_.table())

    @property
    def complexity_(self) -> int:
        """Number of conditions of all rules, without redundant ones."""
        check_is_fitted(self, "rule_model_")
        return sum(len(rule.conditions) for rule in self.rules_)

    def __str__(self) -> str:
        """Return the rules as a list, the strongest first; before fitting the usual representation."""
        return str(self.rule_model_) if hasattr(self, "rule_model_") else repr(self)
