"""From a fitted ensemble to its rule matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import InvalidProblem
from .binning import QuantileBinner
from .conditions import Condition, Rule
from .matrix import RuleMatrix, columns_of
from .readers import TreeArrays, read_trees

__all__ = ["extract_rules"]

Array = np.ndarray[Any, Any]


class _Node(NamedTuple):
    tree: int
    node: int
    path: tuple[Condition, ...]
    rows: Array
    value: float
    leaf: bool
    above: int
    """number of the parent among the nodes, -1 at a root"""


def extract_rules(
    ensemble: Any,
    X: Any,
    *,
    nodes: str = "all",
    columns: str = "indicator",
    constant: str = "drop",
    binner: QuantileBinner | None = None,
    feature_names: Sequence[str] | None = None,
) -> RuleMatrix:
    r"""Read the rules of a fitted tree ensemble: every node is the conjunction of the splits above it.

    Parameters
    ----------
    ensemble : estimator
        A fitted tree, forest or gradient boosting model of scikit-learn, XGBoost or LightGBM.
    X : array or DataFrame, shape (n, features)
        The samples over which the columns are formed, in the units of the features (not binned).
    nodes : {"all", "leaves"}
        Inner nodes are the shorter rules.
    columns : {"indicator", "value"}
        Entries 1, or the value of the tree at the node.
    constant : {"drop", "merge", "keep"}
        What becomes of rules that hold for every sample, such as the roots: left out, one column for all of them
        (tree -1), or one in each tree.
    binner : QuantileBinner, optional
        The one whose codes the ensemble was fitted on. Thresholds come back in the units of the features.
    feature_names : sequence of str, optional
        Default: the columns of a DataFrame, or the names that the ensemble knows.

    Returns
    -------
    RuleMatrix
        Columns ordered by tree, within a tree from the root down and left before right. Rules that hold for no
        sample are left out.

    Raises
    ------
    InvalidProblem
        On wrong options, an ensemble that is not fitted, or values that a classifier of more than two classes lacks.
    Unsupported
        For models that are no ensembles of trees, and for categorical splits.

    Notes
    -----
    Trees of scikit-learn and XGBoost round x to float32 before they compare. The thresholds of the rules are moved to
    where that comparison changes its answer, so that rules compare in float64 and agree for every x.

    A missing value goes where the tree sends it, if X has missing values of that feature. If it has none, no
    condition on the feature holds for a missing value.

    References
    ----------
    arXiv 2506.20114: all nodes as candidates, so that choosing an inner node is choosing a shorter rule.

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeRegressor
    >>> tree = DecisionTreeRegressor(max_depth=1).fit([[1.0], [2.0], [3.0]], [0.0, 0.0, 5.0])
    >>> rules = extract_rules(tree, [[1.0], [2.0], [3.0]])
    >>> [str(rule) for rule in rules.rules], rules.support.tolist()
    (['x0 <= 2.5', 'x0 > 2.5'], [2, 1])
    """
    for name, given, known in (
        ("nodes", nodes, ("all", "leaves")),
        ("columns", columns, ("indicator", "value")),
        ("constant", constant, ("drop", "merge", "keep")),
    ):
        if given not in known:
            raise InvalidProblem(f"{name} is {given!r}; choose {', '.join(map(repr, known))}")
    names = _names(ensemble, X, feature_names)
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or len(X) == 0:
        raise InvalidProblem(f"X has shape {X.shape}; at least one sample (n, features) is needed")
    expected = getattr(ensemble, "n_features_in_", X.shape[1])
    if X.shape[1] != expected:
        raise InvalidProblem(f"X has {X.shape[1]} features, the ensemble was fitted on {expected}")
    trees = read_trees(ensemble)
    incomplete = np.isnan(X).any(axis=0)
    found: list[_Node] = []
    for number, tree in enumerate(trees):
        if binner is not None:
            tree = _unbinned(tree, binner)
        if tree.feature.max(initial=-1) >= X.shape[1]:
            raise InvalidProblem(f"X has {X.shape[1]} features; a tree splits on feature {int(tree.feature.max())}")
        found += _walk(tree, number, X, incomplete, len(found))
    return _assemble(found, len(X), len(trees), nodes, columns, constant, names)


def _names(ensemble: Any, X: Any, given: Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        given = getattr(X, "columns", None)
    if given is None:
        given = getattr(ensemble, "feature_names_in_", None)
    if given is None:
        return None
    names = tuple(str(name) for name in given)
    width = np.shape(X)[1] if np.ndim(X) == 2 else len(names)
    if len(names) != width:
        raise InvalidProblem(f"{len(names)} feature names for {width} features")
    return names


def _unbinned(tree: TreeArrays, binner: QuantileBinner) -> TreeArrays:
    from dataclasses import replace

    threshold = tree.threshold.copy()
    for feature in np.unique(tree.feature[tree.feature >= 0]):
        here = tree.feature == feature
        threshold[here] = binner.thresholds(int(feature), threshold[here])
    return replace(tree, threshold=threshold)


def _walk(tree: TreeArrays, number: int, X: Array, incomplete: Array, offset: int) -> Iterator[_Node]:
    """Yield the nodes of a tree from the root down, left before right."""
    count = offset
    stack: list[tuple[int, tuple[Condition, ...], Array, int]] = [(0, (), np.arange(len(X)), -1)]
    while stack:
        node, path, rows, above = stack.pop()
        feature = int(tree.feature[node])
        yield _Node(number, node, path, rows, float(tree.value[node]), feature < 0, above)
        if feature >= 0:
            threshold, missing = float(tree.threshold[node]), bool(tree.missing_left[node])
            gaps = bool(incomplete[feature])
            left = Condition(feature, "<=", threshold, gaps and missing)
            inside = left.holds(X[rows, feature])
            right = Condition(feature, ">", threshold, gaps and not missing)
            stack.append((int(tree.right[node]), (*path, right), rows[~inside], count))
            stack.append((int(tree.left[node]), (*path, left), rows[inside], count))
        count += 1


def _assemble(
    found: list[_Node],
    samples: int,
    trees: int,
    nodes: str,
    columns: str,
    constant: str,
    names: tuple[str, ...] | None,
) -> RuleMatrix:
    chosen: list[_Node] = []
    parent: list[int] = []
    column_of = np.full(len(found) + 1, -1, dtype=np.int64)  # column of a node or of its nearest ancestor with one
    everywhere = 0
    for number, node in enumerate(found):
        column_of[number] = column_of[node.above]
        if len(node.rows) == 0 or (nodes == "leaves" and not node.leaf):
            continue
        if len(node.rows) == samples and constant != "keep":
            everywhere += 1
            continue
        parent.append(int(column_of[node.above]))
        column_of[number] = len(chosen)
        chosen.append(node)
    if constant == "merge" and everywhere:
        chosen.append(_Node(-1, -1, (), np.arange(samples), 1.0, False, -1))
        parent.append(-1)
    value = np.array([node.value for node in chosen], dtype=np.float64)
    if columns == "value" and not np.isfinite(value).all():
        raise InvalidProblem("the trees give no single number at a node (more than two classes?); use indicators")
    scale = value.copy() if columns == "value" else np.ones(len(chosen))
    rules = tuple(Rule(node.path) for node in chosen)
    counts = np.ones(len(chosen), dtype=np.int64)
    if constant == "merge" and everywhere:
        counts[-1] = everywhere
    return RuleMatrix(
        matrix=columns_of([node.rows for node in chosen], samples, scale),
        rules=rules,
        tree=np.array([node.tree for node in chosen], dtype=np.int64),
        node=np.array([node.node for node in chosen], dtype=np.int64),
        parent=np.array(parent, dtype=np.int64),
        depth=np.array([rule.depth for rule in rules], dtype=np.int64),
        feature_count=np.array([len(rule.features) for rule in rules], dtype=np.int64),
        support=np.array([len(node.rows) for node in chosen], dtype=np.int64),
        count=counts,
        value=value,
        scale=scale,
        trees=trees,
        feature_names=names,
    )
