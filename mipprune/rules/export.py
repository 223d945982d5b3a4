"""Rule models as text, Markdown, JSON, SQL and Python, each with the same values as the model itself."""

from __future__ import annotations

import json
import keyword
import math
from collections.abc import Callable
from typing import Any

from ..errors import InvalidProblem
from .conditions import Condition, Rule
from .model import RuleModel

__all__ = ["export_rules"]

_MANTISSA = 1 << 53


def export_rules(model: Any, format: str = "text", *, digits: int | None = None, table: str = "data") -> str:
    """Write a rule model out.

    Parameters
    ----------
    model : RuleModel, or a fitted estimator with ``rule_model_``
    format : {"text", "markdown", "json", "sql", "python"}
        A list, a table, data, a query, or a function.
    digits : int, optional
        Significant digits of numbers in text and Markdown, for reading. By default, and always in the other formats,
        as many as are needed to compute the same values.
    table : str
        Name of the table in the query.

    Returns
    -------
    str

    Raises
    ------
    InvalidProblem
        For an unknown format, or names of features that occur twice.

    Notes
    -----
    Missing values: a comparison with NULL (NaN) is not true, so that a rule does not hold where a feature of it is
    missing, unless its condition says "or missing" (``IS NULL``), which it does where the trees were fitted on missing
    values and send them there. Comparisons are in double precision: columns of the table should be DOUBLE PRECISION
    (REAL in SQLite), or integers.

    Examples
    --------
    >>> rule = Rule((Condition(0, ">", 1.5), Condition(1, "<=", 2.0)))
    >>> model = RuleModel(rules=(rule,), coef=[2.0], intercept=1.0, feature_names=("age", "bmi"))
    >>> print(export_rules(model, "sql", table="people"))
    SELECT
      1.0
      + 2.0 * CASE WHEN "age" > 1.5 AND "bmi" <= 2.0 THEN 1 ELSE 0 END AS "prediction"
    FROM "people";
    """
    found = model if isinstance(model, RuleModel) else getattr(model, "rule_model_", None)
    if not isinstance(found, RuleModel):
        raise InvalidProblem(f"{type(model).__name__} holds no rule model; give a RuleModel or a fitted rule estimator")
    writers: dict[str, Callable[[], str]] = {
        "text": lambda: _text(found, digits),
        "markdown": lambda: _markdown(found, digits),
        "json": lambda: _json(found),
        "sql": lambda: _sql(found, table),
        "python": lambda: _python(found),
    }
    if format not in writers:
        raise InvalidProblem(f"format is {format!r}; choose {', '.join(map(repr, writers))}")
    return writers[format]()


def _names(model: RuleModel) -> list[str]:
    width = 1 + max((feature for rule in model.rules for feature in rule.features), default=-1)
    names = [f"x{j}" for j in range(width)] if model.feature_names is None else list(model.feature_names)
    if len(set(names)) != len(names):
        raise InvalidProblem("two features have the same name, so that an export could not tell them apart")
    return names


def _number(value: float, digits: int | None, sign: bool = False) -> str:
    if digits is None:
        return f"{'+' if sign and math.copysign(1.0, value) > 0 else ''}{value!r}"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _share(value: Any, j: int) -> str:
    return "" if value is None else f"{100 * float(value[j]):.1f} %"


def _text(model: RuleModel, digits: int | None) -> str:
    names = _names(model)
    lines = [f"{_number(model.intercept, digits)} always"]
    for j, rule in enumerate(model.rules):
        share = f"  [{_share(model.coverage, j)} of the samples]" if model.coverage is not None else ""
        lines.append(f"{_number(float(model.coef[j]), digits, True)} IF {rule.text(names, digits)}{share}")
    return "\n".join(lines)


def _markdown(model: RuleModel, digits: int | None) -> str:
    names = _names(model)
    rows = ["| effect | coverage | rule |", "| ---: | ---: | :--- |"]
    rows.append(f"| {_number(model.intercept, digits)} | 100.0 % | always |")
    for j, rule in enumerate(model.rules):
        text = rule.text(names, digits).replace("|", "\\|")
        rows.append(f"| {_number(float(model.coef[j]), digits, True)} | {_share(model.coverage, j)} | IF {text} |")
    return "\n".join(rows)


def _json(model: RuleModel) -> str:
    names = _names(model)

    def written(rule: Rule, j: int) -> dict[str, Any]:
        conditions = [
            {"feature": names[c.feature], "op": c.side, "threshold": c.threshold}
            | ({"missing": True} if c.missing else {})
            for c in rule.conditions
        ]
        row: dict[str, Any] = {"conditions": conditions, "coef": float(model.coef[j])}
        for key in ("coverage", "frequency"):
            if getattr(model, key) is not None:
                row[key] = float(getattr(model, key)[j])
        return row

    data = {
        "response": model.response,
        "intercept": model.intercept,
        "features": names,
        "rules": [written(rule, j) for j, rule in enumerate(model.rules)],
    }
    return json.dumps(data, indent=2)


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _literal(value: float) -> str:
    """Return an SQL expression that is exactly this number.

    Decimal literals of up to 15 digits and moderate exponents are read exactly everywhere; others are written as a
    whole number and a power of two, since not every database reads 17 digits correctly.
    """
    if math.isinf(value):
        return "9e999" if value > 0 else "-9e999"
    text = repr(float(value))
    digits = text.lstrip("-").partition("e")[0].replace(".", "").strip("0")
    if value == 0.0 or (len(digits) <= 15 and 1e-7 <= abs(value) <= 1e22):
        return f"({text})" if value < 0 else text
    fraction, exponent = math.frexp(value)
    whole, exponent = int(fraction * _MANTISSA), exponent - 53
    while whole % 2 == 0:
        whole, exponent = whole // 2, exponent + 1
    out = f"CAST({whole} AS DOUBLE PRECISION)"
    while exponent:
        step = min(abs(exponent), 53)
        out += f" {'*' if exponent > 0 else '/'} CAST({1 << step} AS DOUBLE PRECISION)"
        exponent -= step if exponent > 0 else -step
    return f"({out})"


def _sql(model: RuleModel, table: str) -> str:
    names = _names(model)

    def condition(c: Condition) -> str:
        name = _quoted(names[c.feature])
        text = f"{name} {c.side} {_literal(c.threshold)}"
        return f"({text} OR {name} IS NULL)" if c.missing else text

    # Thresholds decide and are written exactly; sums may differ in the last digit.
    lines = [repr(model.intercept)]
    for rule, coef in zip(model.rules, model.coef, strict=True):
        when = " AND ".join(condition(c) for c in rule.conditions) or "1 = 1"
        lines.append(f"{'-' if coef < 0 else '+'} {abs(float(coef))!r} * CASE WHEN {when} THEN 1 ELSE 0 END")
    body = "\n  ".join(lines)
    return f"SELECT\n  {body} AS {_quoted(model.response)}\nFROM {_quoted(table)};"


def _python(model: RuleModel) -> str:
    names = _names(model)

    def condition(c: Condition) -> str:
        name = f"row[{names[c.feature]!r}]"
        number = f'float("{c.threshold}")' if math.isinf(c.threshold) else repr(float(c.threshold))
        text = f"{name} {c.side} {number}"
        return f"({text} or {name} != {name})" if c.missing else text

    title = model.response if model.response.isidentifier() and not keyword.iskeyword(model.response) else "prediction"
    lines = [
        f"def {title}(row):",
        f'    """Return the {title} for a mapping from names of features to numbers (NaN: missing)."""',
    ]
    lines.append(f"    total = {model.intercept!r}")
    for rule, coef in zip(model.rules, model.coef, strict=True):
        when = " and ".join(condition(c) for c in rule.conditions) or "True"
        lines += [f"    if {when}:", f"        total += {float(coef)!r}"]
    return "\n".join([*lines, "    return total", ""])
