"""Building blocks of self-contained HTML pages: tiles, plots drawn as inline SVG, sortable tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

__all__ = ["bars", "document", "intervals", "section", "table", "tiles"]

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 240.0, 58.0, 12.0, 12.0, 26.0
_MIN_WIDTH, _STEP = 980.0, 16.0
_FEW = 6  # so many names fit below the axis; more are numbered in their order

Number = float | None


def document(title: str, sections: Sequence[str]) -> str:
    """Return a whole page that needs nothing but itself and follows the reader's light or dark setting.

    Parameters
    ----------
    title : str
        Heading.
    sections : sequence of str
        HTML, as the other functions return it.
    """
    template = files("mipprune").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("{{title}}", escape(title)).replace("{{body}}", "\n".join(sections))


def section(title: str, content: str, note: str = "") -> str:
    """Return HTML under a heading, with an explanation."""
    explanation = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{content}{explanation}</section>"


def tiles(entries: Sequence[tuple[str, str]]) -> str:
    """Return a row of labelled figures.

    Parameters
    ----------
    entries : sequence of (label, figure)
    """
    boxes = "".join(f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for label, value in entries)
    return f'<div class="tiles">{boxes}</div>'


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> str:
    """Return a table that sorts by a column when its heading is clicked.

    Parameters
    ----------
    headers, total : sequence of str
    rows : sequence of sequence of str

    Examples
    --------
    >>> "<td>&lt;1&gt;</td>" in table(["a"], [["<1>"]])
    True
    """

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    foot = f"<tfoot>{line(total, 'td')}</tfoot>" if total is not None else ""
    return f'<div class="wide"><table><thead>{line(headers, "th")}</thead><tbody>{body}</tbody>{foot}</table></div>'


def intervals(names: Sequence[str], values: Sequence[tuple[Number, float]]) -> str:
    """Plot for each name a bar up to a value, filled up to a lower bound of it.

    Parameters
    ----------
    names : sequence of str
        Shown when the pointer rests on a bar.
    values : sequence of (bound or None, value)
        Negative bounds are shown as 0.
    """
    plot = _Plot(len(names), max((value for _, value in values), default=0.0))
    shapes = []
    for index, (name, (bound, value)) in enumerate(zip(names, values)):
        proven = "" if bound is None else f", proven at least {bound:.4g}"
        low = max(bound or 0.0, 0.0)
        shapes.append(f"<g><title>{escape(name)}: {value:.4g}{proven}</title>")
        shapes.append(plot.bar(index, 0.0, low, "s0") + plot.bar(index, low, value, "s0 open"))
        shapes.append("</g>")
    bounded = any(bound is not None for bound, _ in values)
    legend = [("s0", "proven bound"), ("s0 open", "open gap")] if bounded else [("s0 open", "error")]
    return plot.drawing("".join(shapes), names) + _legend(legend)


def bars(names: Sequence[str], series: Sequence[Sequence[Number]], labels: Sequence[str]) -> str:
    """Plot stacked bars, one for each name.

    Parameters
    ----------
    names : sequence of str
    series : sequence of sequence of float or None
        One sequence for each label, one number for each name.
    labels : sequence of str
    """
    totals = [sum(value or 0.0 for value in column) for column in zip(*series)]
    plot = _Plot(len(names), max(totals, default=0.0))
    shapes = []
    for index, name in enumerate(names):
        low = 0.0
        parts = ", ".join(f"{label} {_shown(values[index])}" for label, values in zip(labels, series))
        shapes.append(f"<g><title>{escape(name)}: {escape(parts)}</title>")
        for number, values in enumerate(series):
            high = low + max(values[index] or 0.0, 0.0)
            shapes.append(plot.bar(index, low, high, f"s{number}"))
            low = high
        shapes.append("</g>")
    legend = [(f"s{number}", label) for number, label in enumerate(labels)] if len(labels) > 1 else []
    return plot.drawing("".join(shapes), names) + _legend(legend)


def _shown(value: Number) -> str:
    return "-" if value is None else f"{value:.4g}"


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    if not entries:
        return ""
    swatch = '<svg width="12" height="12"><rect class="{}" width="12" height="12" rx="2"/></svg>'
    items = "".join(f"<span>{swatch.format(kind)}{escape(label)}</span>" for kind, label in entries)
    return f'<div class="legend">{items}</div>'


class _Plot:
    """Coordinates of a bar chart with a linear axis from 0."""

    def __init__(self, count: int, top: float) -> None:
        self.count = max(count, 1)
        self.width = max(_MIN_WIDTH, _LEFT + _RIGHT + _STEP * self.count)
        self.ticks = _ticks(top)
        self.top = self.ticks[-1]

    def _x(self, index: float) -> float:
        return _LEFT + (self.width - _LEFT - _RIGHT) * index / self.count

    def _y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / self.top

    def bar(self, index: int, low: float, high: float, kind: str) -> str:
        if not high > low:
            return ""
        x, step = self._x(index), self._x(1) - self._x(0)
        width = min(0.72 * step, 36.0)
        y, height = self._y(high), self._y(low) - self._y(high)
        x += 0.5 * (step - width)
        return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'

    def drawing(self, shapes: str, names: Sequence[str]) -> str:
        axis = []
        for tick in self.ticks:
            y = self._y(tick)
            axis.append(f'<line x1="{_LEFT:g}" x2="{self.width - _RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
            axis.append(f'<text x="{_LEFT - 7:g}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
        every = max(1, math.ceil(self.count / 24))
        for index in range(0, self.count, every):
            x = 0.5 * (self._x(index) + self._x(index + 1))
            label = escape(names[index]) if len(names) <= _FEW else str(index + 1)
            axis.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8:g}" text-anchor="middle">{label}</text>')
        return (
            f'<div class="wide"><svg class="plot" role="img" viewBox="0 0 {self.width:g} {_HEIGHT:g}" '
            f'style="min-width:{0.7 * self.width:g}px"><g class="axis">{"".join(axis)}</g>{shapes}</svg></div>'
        )


def _ticks(top: float) -> list[float]:
    """Four to six round numbers from 0 to beyond `top`."""
    if not (top > 0 and math.isfinite(top)):
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top / 4))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * 5 >= top)
    return [step * number for number in range(math.ceil(top / step * (1 - 1e-9)) + 1)]
