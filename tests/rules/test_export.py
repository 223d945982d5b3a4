"""Exports say the same as the model: text and Python read back, JSON round trips, SQL run in SQLite."""

from __future__ import annotations

import json
import math
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mipprune as mp
from mipprune.rules import Condition, Rule, RuleModel, export_rules, readable
from mipprune.rules.export import _literal

NAMES = ("age", 'a "quoted" name', "select")


@st.composite
def models(draw: st.DrawFn) -> RuleModel:
    number = st.one_of(
        st.integers(-5, 5).map(float), st.floats(-1e6, 1e6), st.floats(allow_nan=False, allow_infinity=False)
    )
    condition = st.builds(Condition, st.integers(0, 2), st.sampled_from(["<=", ">"]), number, st.booleans())
    rules = draw(st.lists(st.lists(condition, max_size=4).map(lambda path: Rule(tuple(path))), max_size=5))
    coef = draw(st.lists(st.floats(-1e3, 1e3), min_size=len(rules), max_size=len(rules)))
    return RuleModel(rules=tuple(rules), coef=np.array(coef), intercept=draw(st.floats(-10, 10)), feature_names=NAMES)


def samples(model: RuleModel, seed: int = 0) -> np.ndarray:
    """Values at, next to and between the thresholds, and missing ones."""
    rng = np.random.default_rng(seed)
    pools = []
    for feature in range(3):
        at = [c.threshold for rule in model.rules for c in rule.path if c.feature == feature] or [0.0]
        near = [math.nextafter(t, side) for t in at for side in (-math.inf, math.inf)]
        pool = np.array([*at, *near, *rng.normal(size=3), math.nan])
        pools.append(rng.choice(pool[np.isfinite(pool) | np.isnan(pool)], size=40))
    return np.stack(pools, axis=1)


def in_sqlite(query: str, X: np.ndarray, names: tuple[str, ...] = NAMES, table: str = "data") -> np.ndarray:
    database = sqlite3.connect(":memory:")
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    database.execute(f'CREATE TABLE "{table}" ({", ".join(name + " REAL" for name in quoted)})')
    rows = [[None if math.isnan(v) else float(v) for v in row] for row in X]
    database.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(names))})', rows)
    return np.array([row[0] for row in database.execute(query)])


@given(models())
@settings(max_examples=40, deadline=None)
def test_every_export_computes_the_same_values(model: RuleModel) -> None:
    X = samples(model)
    expected = model(X)
    slack = 1e-12 * (abs(model.intercept) + float(np.abs(model.coef).sum()) + 1.0)
    assert np.abs(in_sqlite(export_rules(model, "sql"), X) - expected).max() <= slack
    space: dict[str, object] = {}
    exec(export_rules(model, "python"), space)
    computed = [space["prediction"](dict(zip(NAMES, row, strict=True))) for row in X.tolist()]
    assert np.array_equal(computed, expected)
    again = RuleModel.from_json(export_rules(model, "json"))
    assert np.array_equal(again(X), expected)
    assert json.loads(export_rules(model, "json"))["features"] == list(NAMES)


@given(models())
@settings(max_examples=40, deadline=None)
def test_text_reads_back(model: RuleModel) -> None:
    named = RuleModel(rules=model.rules, coef=model.coef, intercept=model.intercept, feature_names=("a", "b", "c"))
    lines = export_rules(named).splitlines()
    X = samples(model)
    total = np.full(len(X), float(lines[0].removesuffix(" always")))
    for line in lines[1:]:
        coef, _, text = line.partition(" IF ")
        holds = []
        for a, b, c in X.tolist():
            text_now = text.replace(" or missing", " or MISSING").replace("TRUE", "True")
            parts = []
            for part in text_now.split(" and "):
                name = part.lstrip("(")[0]
                parts.append(part.replace("MISSING", f"{name} != {name}"))
            holds.append(eval(" and ".join(parts), {"a": a, "b": b, "c": c}))
        total += float(coef) * np.array(holds, dtype=float)
    assert np.array_equal(total, model(X))


@given(st.floats(allow_nan=False))
@settings(max_examples=200, deadline=None)
def test_literals_are_read_exactly(value: float) -> None:
    assert sqlite3.connect(":memory:").execute(f"SELECT {_literal(value)}").fetchone()[0] == value


def test_what_is_shown() -> None:
    rules = (
        Rule((Condition(0, "<=", 3.0), Condition(0, "<=", 2.0))),
        Rule(()),
        Rule((Condition(1, ">", 0.123456789),)),
    )
    model = RuleModel(rules=rules, coef=[0.5, -3.0, 1.0], intercept=2.0, coverage=np.array([0.25, 1.0, 0.5])).sorted()
    assert str(model).splitlines() == [
        "2.0000 always",
        "-3.0000 IF TRUE  [100.0 % of the samples]",
        "+1.0000 IF x1 > 0.1235  [50.0 % of the samples]",
        "+0.5000 IF x0 <= 2  [25.0 % of the samples]",
    ]
    assert export_rules(model, "markdown", digits=2).splitlines()[-1] == "| +0.50 | 25.0 % | IF x0 <= 2 |"
    assert [row["depth"] for row in model.table()] == [0, 1, 2]
    for wrong in ("html", ""):
        with pytest.raises(mp.InvalidProblem, match="format"):
            export_rules(model, wrong)
    with pytest.raises(mp.InvalidProblem, match="no rule model"):
        export_rules(object())
    with pytest.raises(mp.InvalidProblem, match="same name"):
        export_rules(RuleModel(rules=rules, coef=[1, 1, 1], intercept=0, feature_names=("a", "a")))
    with pytest.raises(mp.InvalidProblem, match="coef"):
        RuleModel(rules=rules, coef=[1.0], intercept=0.0)


def test_thresholds_get_short_and_hold_for_the_same_samples() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) * [1e-4, 1.0, 1e5]
    X[rng.random(X.shape) < 0.1] = math.nan
    rules = [
        Rule((Condition(j, side, float(t), miss),))
        for j in range(3)
        for t in rng.normal(size=20) * [1e-4, 1, 1e5][j]
        for side in ("<=", ">")
        for miss in (True, False)
    ]
    short = readable(rules, X)
    for old, new in zip(rules, short, strict=True):
        assert np.array_equal(old.holds(X), new.holds(X))
        assert len(new.text()) <= len(old.text())
    assert np.mean([len(r.text()) for r in short]) < 0.7 * np.mean([len(r.text()) for r in rules])
