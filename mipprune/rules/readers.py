"""Reading the trees of fitted ensembles of several packages into one form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidProblem, Unsupported

__all__ = ["TreeArrays", "read_trees"]

Array = np.ndarray[Any, Any]
_ZERO = float(np.float32(1e-35))  # up to this magnitude LightGBM reads a number as 0


@dataclass(frozen=True, eq=False, kw_only=True)
class TreeArrays:
    """One binary tree; node 0 is the root.

    Attributes
    ----------
    feature : int64 array (nodes,)
        Feature of the split; -1 at a leaf.
    threshold : float64 array (nodes,)
        A sample goes left when ``x <= threshold`` in float64.
    missing_left : bool array (nodes,)
        Whether a missing value goes left.
    left, right : int64 array (nodes,)
        Children; -1 at a leaf.
    value : float64 array (nodes,)
        What the tree says at the node (regression value, share of the second class, or raw score).
    """

    feature: Array
    threshold: Array
    missing_left: Array
    left: Array
    right: Array
    value: Array


def single_precision(threshold: Any, *, strict: bool = False) -> Array:
    """Return the float64 thresholds t with: ``x <= t`` exactly when the tree sends float32(x) left.

    Parameters
    ----------
    threshold : array of float
        The tree compares ``float32(x) <= threshold``.
    strict : bool
        The tree compares ``float32(x) < threshold``.

    Notes
    -----
    Rounding to float32 is monotone. With f the largest float32 that goes left, x rounds to f or lower exactly up to
    the middle between f and the next float32; the middle itself rounds to the one with the even last bit.
    """
    exact = np.atleast_1d(np.asarray(threshold, dtype=np.float64))
    with np.errstate(over="ignore"):
        below = exact.astype(np.float32)
    above = (below.astype(np.float64) >= exact) if strict else (below.astype(np.float64) > exact)
    below = np.where(above, np.nextafter(below, np.float32(-np.inf)), below)
    after = np.nextafter(below, np.float32(np.inf)).astype(np.float64)
    after = np.where(np.isinf(after) & np.isfinite(below), 2.0**128, after)  # where float32 would go on
    middle = 0.5 * (below.astype(np.float64) + after)
    even = (np.ascontiguousarray(below).view(np.uint32) & 1) == 0
    return np.where(even | ~np.isfinite(middle), middle, np.nextafter(middle, -np.inf))


def read_trees(ensemble: Any) -> list[TreeArrays]:
    """Return the trees of a fitted ensemble.

    Parameters
    ----------
    ensemble : estimator
        A fitted decision tree, forest, or gradient boosting model of scikit-learn (also its histogram version),
        XGBoost or LightGBM (scikit-learn interface or booster).

    Raises
    ------
    Unsupported
        For other models, and for categorical splits.
    InvalidProblem
        If the ensemble is not fitted.
    """
    module, name = type(ensemble).__module__.partition(".")[0], type(ensemble).__name__
    readers: dict[str, Callable[[Any], Iterator[TreeArrays]]] = {
        "xgboost": _xgboost,
        "lightgbm": _lightgbm,
        "mipprune": lambda model: iter(read_trees(model.ensemble_)),
    }
    if module in readers and (module != "mipprune" or hasattr(ensemble, "ensemble_")):
        return list(readers[module](ensemble))
    if hasattr(ensemble, "_predictors"):
        return list(_histogram(ensemble))
    if hasattr(ensemble, "tree_"):
        return [_sklearn_tree(ensemble)]
    if hasattr(ensemble, "estimators_"):
        found = list(np.ravel(np.asarray(ensemble.estimators_, dtype=object)))
        if all(hasattr(tree, "tree_") for tree in found):
            seen = getattr(ensemble, "estimators_features_", None)  # bagging: each tree has features of its own
            return [_sklearn_tree(tree, None if seen is None else seen[t]) for t, tree in enumerate(found)]
    if hasattr(ensemble, "fit") and (hasattr(ensemble, "n_estimators") or hasattr(ensemble, "max_depth")):
        raise InvalidProblem(f"{name} is not fitted; call fit before its rules are read")
    raise Unsupported(
        f"{name} is no ensemble of trees that can be read; use trees, forests or gradient boosting of scikit-learn, "
        "XGBoost or LightGBM"
    )


def _sklearn_tree(model: Any, features: Any = None) -> TreeArrays:
    tree = model.tree_
    value = tree.value[:, 0, :]
    if value.shape[1] == 2:  # classification: shares of the classes (counts in old versions)
        value = value[:, 1] / np.maximum(value.sum(axis=1), np.finfo(float).tiny)
    elif value.shape[1] == 1:
        value = value[:, 0]
    else:
        value = np.full(len(value), np.nan)
    nodes = tree.__getstate__()["nodes"]
    leaf = tree.children_left < 0
    number = tree.feature if features is None else np.asarray(features)[np.maximum(tree.feature, 0)]
    missing = nodes["missing_go_to_left"] != 0 if "missing_go_to_left" in nodes.dtype.names else np.zeros(len(leaf))
    return TreeArrays(
        feature=np.where(leaf, -1, number).astype(np.int64),
        threshold=single_precision(tree.threshold),
        missing_left=missing.astype(bool),
        left=tree.children_left.astype(np.int64),
        right=tree.children_right.astype(np.int64),
        value=value.astype(np.float64),
    )


def _histogram(model: Any) -> Iterator[TreeArrays]:
    for iteration in model._predictors:
        for predictor in iteration:
            nodes = predictor.nodes
            if nodes["is_categorical"].any():
                raise Unsupported("the ensemble has categorical splits; one-hot encode the categories first")
            leaf = nodes["is_leaf"] != 0
            yield TreeArrays(
                feature=np.where(leaf, -1, nodes["feature_idx"]).astype(np.int64),
                threshold=nodes["num_threshold"].astype(np.float64),
                missing_left=nodes["missing_go_to_left"] != 0,
                left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                value=nodes["value"].astype(np.float64),
            )


def _xgboost(model: Any) -> Iterator[TreeArrays]:
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    learner = json.loads(booster.save_raw("json").decode())["learner"]["gradient_booster"]
    if "model" not in learner:
        learner = learner.get("gbtree", learner)
    if "trees" not in learner.get("model", {}):
        raise Unsupported("the booster of XGBoost is not made of trees (booster='gblinear')")
    for tree in learner["model"]["trees"]:
        if any(tree["split_type"]):
            raise Unsupported("the ensemble has categorical splits; one-hot encode the categories first")
        left = np.asarray(tree["left_children"], dtype=np.int64)
        leaf = left < 0
        split = np.asarray(tree["split_conditions"], dtype=np.float32)  # decimal digits of float32 numbers
        weights = np.ravel(np.asarray(tree["base_weights"], dtype=np.float64))
        value = weights if len(weights) == len(left) else np.where(leaf, split, np.nan)
        yield TreeArrays(
            feature=np.where(leaf, -1, np.asarray(tree["split_indices"], dtype=np.int64)),
            threshold=single_precision(split, strict=True),
            missing_left=np.asarray(tree["default_left"]).astype(bool),
            left=left,
            right=np.asarray(tree["right_children"], dtype=np.int64),
            value=np.where(leaf, split.astype(np.float64), value),
        )


def _lightgbm_threshold(threshold: float) -> float:
    """Return the threshold that compares as LightGBM does: it reads tiny numbers as 0 and prints infinity as 1e300."""
    if abs(threshold) <= _ZERO:
        return _ZERO if threshold >= 0.0 else float(np.nextafter(-_ZERO, -np.inf))
    return threshold if abs(threshold) < 1e300 else float(np.copysign(np.inf, threshold))


def _lightgbm(model: Any) -> Iterator[TreeArrays]:
    booster = getattr(model, "booster_", model)
    for tree in booster.dump_model()["tree_info"]:
        feature: list[int] = []
        threshold: list[float] = []
        missing: list[bool] = []
        value: list[float] = []
        child: tuple[list[int], list[int]] = ([], [])
        stack: list[tuple[dict[str, Any], int, int]] = [(tree["tree_structure"], -1, 0)]
        while stack:
            node, parent, side = stack.pop()
            here = len(feature)
            if parent >= 0:
                child[side][parent] = here
            inner = "split_feature" in node
            if inner and node["decision_type"] != "<=":
                raise Unsupported("the ensemble has categorical splits; one-hot encode the categories first")
            if inner and node["missing_type"] == "Zero":
                raise Unsupported("the ensemble treats zeros as missing (zero_as_missing), which no rule can state")
            split = _lightgbm_threshold(float(node["threshold"])) if inner else np.nan
            # With missing_type "None" LightGBM reads NaN as 0.
            default = inner and (bool(node["default_left"]) if node["missing_type"] == "NaN" else split >= 0.0)
            feature.append(int(node["split_feature"]) if inner else -1)
            threshold.append(split)
            missing.append(default)
            value.append(float(node["internal_value" if inner else "leaf_value"]))
            child[0].append(-1)
            child[1].append(-1)
            if inner:
                stack += [(node["right_child"], here, 1), (node["left_child"], here, 0)]
        yield TreeArrays(
            feature=np.asarray(feature, dtype=np.int64),
            threshold=np.asarray(threshold, dtype=np.float64),
            missing_left=np.asarray(missing, dtype=bool),
            left=np.asarray(child[0], dtype=np.int64),
            right=np.asarray(child[1], dtype=np.int64),
            value=np.asarray(value, dtype=np.float64),
        )
