"""The plots of a report, as plain data for plotly.js."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .faults import best_values
from .metrics import gap_between, performance_profile, primal_integral
from .records import Outcome, Record
from .summary import full_trace, time_to_solve

__all__ = ["figures"]

Figure = dict[str, Any]
_COLOURS = (
    "#2f6fb3",
    "#d98a29",
    "#4c9a62",
    "#9b5fb0",
    "#c1504f",
    "#3f9aa6",
    "#8a7140",
    "#6b7785",
    "#b0699a",
    "#7a9c3a",
)
_FLOOR = 1e-9  # a gap of 0 on a logarithmic axis


def figures(records: Sequence[Record], known: Mapping[str, float] | None = None) -> dict[str, Figure]:
    """Return the plots of one family by title.

    Parameters
    ----------
    records : sequence of Record
        Of one family.
    known : mapping of str to float, optional
        Optima by fingerprint.

    Returns
    -------
    dict of str to dict
        With ``data`` and ``layout`` each; finite numbers only.
    """
    runs = [record for record in records if record.outcome != Outcome.REJECTED]
    if not runs:
        return {}
    names = list(dict.fromkeys(record.solver for record in runs))
    styles = {name: _style(number) for number, name in enumerate(names)}
    best = best_values(runs, known)

    def reference(record: Record) -> float | None:
        return best.get((record.family, record.instance, record.fingerprint))

    makers: dict[str, Callable[[], Figure]] = {
        "Performance profile: time to close the gap": lambda: _profile(
            runs, styles, lambda record: time_to_solve(record), "time, as a multiple of the fastest solver's"
        ),
        "Performance profile: quality of the value": lambda: _profile(
            runs,
            styles,
            lambda record: _quality(record, reference(record)),
            "distance to the best value, as a multiple of the closest solver's (1e-6 is added to each)",
        ),
        "Gap over time": lambda: _gap_over_time(runs, styles),
        "Primal integral": lambda: _boxes(
            runs,
            styles,
            lambda record: primal_integral(full_trace(record), reference(record), record.seconds_limit),
            "primal integral, s",
        ),
        "Gap against size": lambda: _against_size(runs, styles, lambda record: record.gap, "gap"),
        "Time against size": lambda: _against_size(runs, styles, lambda record: record.seconds, "seconds"),
        "Distance to the best value against size": lambda: _against_size(
            runs, styles, lambda record: gap_between(record.value, reference(record)), "distance to the best value"
        ),
    }
    return {title: make() for title, make in makers.items()}


class _Style(NamedTuple):
    colour: str
    dash: str
    symbol: str


def _style(number: int) -> _Style:
    """A colour; where they are used up, another dash and another symbol with it."""
    again, place = divmod(number, len(_COLOURS))
    dashes, symbols = ("solid", "dash", "dot"), ("circle", "diamond", "cross")
    return _Style(_COLOURS[place], dashes[again % 3], symbols[again % 3])


def _quality(record: Record, best: float | None) -> float:
    return math.inf if record.value is None else gap_between(record.value, best) + 1e-6


def _layout(x: str, y: str, **more: Any) -> Figure:
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
    for axis in ("xaxis", "yaxis"):
        axes[axis] |= more.pop(axis, {})
    return {**axes, "margin": {"l": 70, "r": 20, "t": 40, "b": 60}, "hovermode": "closest", **more}


def _line(name: str, style: _Style, points: Sequence[tuple[float, float]], **more: Any) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "line": {"color": style.colour, "dash": style.dash, "shape": "hv", **more.pop("line", {})},
        **more,
    }


def _by_solver(runs: Sequence[Record]) -> dict[str, dict[tuple[str, str], Record]]:
    found: dict[str, dict[tuple[str, str], Record]] = defaultdict(dict)
    for record in runs:
        found[record.solver][record.instance, record.fingerprint] = record
    return found


def _profile(
    runs: Sequence[Record], styles: Mapping[str, _Style], cost: Callable[[Record], float], axis: str
) -> Figure:
    table = _by_solver(runs)
    instances = list(dict.fromkeys((record.instance, record.fingerprint) for record in runs))
    costs = {
        name: [cost(row[instance]) if instance in row else math.inf for instance in instances]
        for name, row in table.items()
    }
    profiles = performance_profile(costs)
    last = 1.5 * max((ratio for steps in profiles.values() for ratio, _ in steps), default=1.0)
    data = [
        _line(name, styles[name], [*steps, (last, steps[-1][1] if steps else 0.0)]) for name, steps in profiles.items()
    ]
    return {
        "data": data,
        "layout": _layout(axis, "share of the instances", xaxis={"type": "log"}, yaxis={"range": [-0.02, 1.02]}),
    }


def _gap_over_time(runs: Sequence[Record], styles: Mapping[str, _Style]) -> Figure:
    data = []
    seen: set[str] = set()
    for record in runs:
        steps = [(seconds, gap_between(value, bound)) for seconds, value, bound in full_trace(record)]
        steps = [(max(seconds, 1e-4), max(gap, _FLOOR)) for seconds, gap in steps if gap < 1.0]
        if not steps:
            continue
        first = record.solver not in seen
        seen.add(record.solver)
        data.append(
            _line(
                record.solver,
                styles[record.solver],
                steps,
                legendgroup=record.solver,
                showlegend=first,
                mode="lines+markers",
                marker={"size": 4, "symbol": styles[record.solver].symbol},
                text=[record.instance] * len(steps),
                line={"width": 1.3},
            )
        )
    axis = {"type": "log"}
    return {"data": data, "layout": _layout("seconds", "gap between value and bound", xaxis=axis, yaxis=axis)}


def _boxes(
    runs: Sequence[Record], styles: Mapping[str, _Style], figure: Callable[[Record], float], axis: str
) -> Figure:
    data = [
        {
            "type": "box",
            "name": name,
            "y": [max(figure(record), _FLOOR) for record in row.values()],
            "text": [record.instance for record in row.values()],
            "boxpoints": "all",
            "jitter": 0.4,
            "marker": {"color": styles[name].colour, "symbol": styles[name].symbol, "size": 4},
        }
        for name, row in _by_solver(runs).items()
    ]
    return {"data": data, "layout": _layout("", axis, yaxis={"type": "log"}, showlegend=False)}


def _against_size(
    runs: Sequence[Record], styles: Mapping[str, _Style], figure: Callable[[Record], float | None], axis: str
) -> Figure:
    data = []
    for name, row in _by_solver(runs).items():
        points = [(record, figure(record)) for record in row.values() if math.isfinite(record.size)]
        shown = [(record, value) for record, value in points if value is not None and math.isfinite(value)]
        if not shown:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [record.size for record, _ in shown],
                "y": [max(value, _FLOOR) for _, value in shown],
                "text": [record.instance for record, _ in shown],
                "marker": {"color": styles[name].colour, "symbol": styles[name].symbol, "size": 8, "opacity": 0.75},
            }
        )
    axes = {"type": "log"}
    return {"data": data, "layout": _layout("size of the instance", axis, xaxis=axes, yaxis=axes)}
