"""Line plots as SVG text, without a plotting library: panels side by side, one line for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "line_plot"]

_COLOURS = ("#777777", "#b07aa1", "#4e79a7", "#e15759", "#59a14f", "#f28e2b", "#76b7b2", "#9c755f")
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 360, 260, 60, 40, 70


@dataclass(frozen=True)
class Curve:
    """One line: its name and its points (x, y), x ascending."""

    name: str
    points: Sequence[tuple[float, float]]


def line_plot(panels: Sequence[tuple[str, Sequence[Curve]]], y_label: str, title: str) -> str:
    """Return an SVG image.

    Parameters
    ----------
    panels : sequence of (str, sequence of Curve)
        The label of each panel's x axis, with its curves; a name has the same colour in all of them.
    y_label, title : str
    """
    curves = [curve for _, found in panels for curve in found]
    names = list(dict.fromkeys(curve.name for curve in curves))
    values = [y for curve in curves for _, y in curve.points] or [0.0, 1.0]
    low, high = 10 * (min(values) // 10), 10 * -(-max(values) // 10)
    high = high if high > low else low + 10
    total = _LEFT + len(panels) * (_WIDTH + _GAP) + 150
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{_TOP + _HEIGHT + 60}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text transform="translate(16 {_TOP + _HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    for number, (label, found) in enumerate(panels):
        lines += _panel(_LEFT + number * (_WIDTH + _GAP), label, found, names, (low, high))
    for number, name in enumerate(names):
        x, y = total - 200, _TOP + 15 + 18 * number
        lines.append(f'<path d="M{x} {y}h22" stroke="{_colour(names, name)}" stroke-width="2"/>')
        lines.append(f'<text x="{x + 28}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _colour(names: Sequence[str], name: str) -> str:
    return _COLOURS[names.index(name) % len(_COLOURS)]


def _panel(
    left: float, label: str, curves: Sequence[Curve], names: Sequence[str], limits: tuple[float, float]
) -> list[str]:
    low, high = limits
    places = [x for curve in curves for x, _ in curve.points] or [0.0, 1.0]
    first, last = min(0.0, *places), max(places)
    last = last if last > first else first + 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + _WIDTH * (x - first) / (last - first), _TOP + _HEIGHT * (high - y) / (high - low)

    lines = [f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>']
    for step in range(6):
        y = low + (high - low) * step / 5
        x = first + (last - first) * step / 5
        across, down = at(x, y)
        lines.append(f'<path d="M{left} {down:.1f}h{_WIDTH}" stroke="#eee"/>')
        lines.append(f'<text x="{left - 6}" y="{down + 4:.1f}" text-anchor="end">{y:g}</text>')
        lines.append(f'<text x="{across:.1f}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle">{x:.2g}</text>')
    lines.append(f'<text x="{left + _WIDTH / 2}" y="{_TOP + _HEIGHT + 36}" text-anchor="middle">{escape(label)}</text>')
    for curve in curves:
        colour = _colour(names, curve.name)
        spots = [at(x, y) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
    return lines
