"""From a fitted forest to ten readable rules, a certificate, and a query that computes the same predictions.

Run ``python examples/readable_rules.py``; it needs scikit-learn and pandas and takes a few seconds.
"""

from __future__ import annotations

import sqlite3

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import train_test_split

import mipprune as mp
from mipprune.estimators import RuleExtractorRegressor


def main() -> None:
    X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)

    # 1. A forest that somebody has fitted already: 200 trees, several thousand nodes.
    forest = RandomForestRegressor(200, max_depth=3, max_features=1 / 3, random_state=0).fit(X_train, y_train)
    nodes = sum(tree.tree_.node_count for tree in forest.estimators_)

    # 2. The ten rules that explain the response best, at most one on every path of a tree.
    model = RuleExtractorRegressor(forest, n_rules=10, gamma=0.01).fit(X_train, y_train)
    print(f"{len(model.rules_)} rules out of {nodes} nodes, R2 on new data {model.score(X_test, y_test):.3f}")
    print(f"(the forest: {forest.score(X_test, y_test):.3f})\n")
    print(model)

    # 3. How much better could any ten rules of this forest be? A bound that anyone can evaluate again.
    checked = mp.check(model.problem_, model.solution_)
    print(f"\nobjective {checked.value:.4f}, no choice is below {checked.bound:.4f}: gap {100 * checked.gap:.2f} %")

    # 4. The same model inside a database.
    query = model.export("sql", table="patients")
    print(f"\n{query}")
    with sqlite3.connect(":memory:") as database:
        X_test.astype(float).to_sql("patients", database, index=False)
        computed = np.array([row[0] for row in database.execute(query)])
    print(f"\nlargest difference from predict: {np.abs(computed - model.predict(X_test)).max():.1e}")

    # 5. Fewer or more rules: the path, and the point where another rule stops paying.
    frontier = RuleExtractorRegressor(forest, gamma=0.01).path(X_train, y_train, points=15)
    frame = frontier.to_frame()
    knee = frontier.knee()
    print(f"\n{frame[['rules', 'conditions', 'error']].round(3).to_string()}\nknee: {frame['rules'][knee]} rules")


if __name__ == "__main__":
    main()
