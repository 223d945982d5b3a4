"""What a pruning job did, layer by layer: errors, bounds and what they rest on, as text, JSON and HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mipprune import page
from mipprune.errors import InvalidProblem
from mipprune.io import write_atomically

__all__ = ["LayerRow", "Report"]


@dataclass(frozen=True)
class LayerRow:
    """One pruned layer.

    Parameters
    ----------
    layer, kind : str
        Qualified name; ``"linear"``, ``"conv2d"`` or ``"conv1d"``.
    structure : str
        The family of supports, as one line of mathematics.
    shape : tuple of int
        (out, in).
    kept : int
        Non-zero weights in the network, after the cast to its dtype.
    tokens : int
        Calibration tokens that the layer saw.
    damping : float
        Ridge in the layer's problem, as a fraction of the mean diagonal of X'X.
    value, bound, scale : float
        Of the damped problem in float64: the squared error of the solution, its proven lower bound (None without), and
        the squared norm of the dense outputs, to which relative numbers refer.
    undamped_value, undamped_scale : float
        Squared error of the written weights and squared norm on X'X alone.
    written_value : float
        Damped squared error of the written weights, after the cast.
    proof, stop : str
        What the bound rests on; why the solver stopped.
    seconds, certify_seconds : float
        Wall time of the whole layer and of the search for the bound in it (None without).
    notes : tuple of str
        What deserves attention, such as a damping that had to be raised.
    """

    layer: str
    kind: str
    structure: str
    shape: tuple[int, int]
    kept: int
    tokens: int
    damping: float
    value: float
    bound: float | None
    scale: float
    undamped_value: float
    undamped_scale: float
    written_value: float
    proof: str
    stop: str
    seconds: float
    certify_seconds: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def density(self) -> float:
        """Kept weights over all weights, in [0, 1]."""
        return self.kept / self.size

    @property
    def relative_error(self) -> float:
        """Squared error over the squared norm of the dense outputs, damped, of the float64 solution."""
        return _ratio(self.value, self.scale)

    @property
    def undamped_error(self) -> float:
        """The same on X'X alone, of the written weights: the number that papers report."""
        return _ratio(self.undamped_value, self.undamped_scale)

    @property
    def written_error(self) -> float:
        """Damped relative error of the written weights; differs from `relative_error` by the cast."""
        return _ratio(self.written_value, self.scale)

    @property
    def relative_bound(self) -> float | None:
        """No admissible weights have a smaller damped relative error than this."""
        return None if self.bound is None else _ratio(self.bound, self.scale)

    @property
    def gap(self) -> float | None:
        """Certified gap (value - bound)/value, in [0, 1] unless the bound is negative."""
        if self.bound is None:
            return None
        return max(0.0, self.value - self.bound) / max(abs(self.value), 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "shape": list(self.shape), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LayerRow:
        """Restore what `to_dict` returned; raises `InvalidProblem` where it is something else."""
        known = {field.name for field in fields(cls)}
        try:
            kept = {key: value for key, value in data.items() if key in known}
            return cls(**{**kept, "shape": tuple(data["shape"]), "notes": tuple(data["notes"])})
        except (TypeError, KeyError) as error:
            raise InvalidProblem(f"these data are not a row of a report ({error})") from error


@dataclass(frozen=True)
class Report:
    """The outcome of a pruning job.

    Parameters
    ----------
    rows : tuple of LayerRow
        The pruned layers, in the order of the network.
    skipped : tuple of (str, str)
        The layers left alone, with the reason.
    solver : str
        Its parameters.
    settings : dict of str to str
        Whatever else decided the result: calibration, damping, seed, versions.
    seconds : float
        Wall time of the job (of the last run, when it was resumed).
    layers : int
        Layers that the job is about; more than there are rows when it was stopped early.

    Examples
    --------
    >>> row = LayerRow("fc", "linear", "2:4", (2, 4), 4, 99, 0.01, 2.0, 1.5, 8.0, 1.9, 7.9, 2.0, "checked", "gap", 0.1)
    >>> report = Report((row,), (), "ADMM()", {}, 0.2, 1)
    >>> report.density, report.relative_error, report.gap
    (0.5, 0.25, 0.25)
    >>> Report.from_json(report.to_json()) == report
    True
    """

    rows: tuple[LayerRow, ...]
    skipped: tuple[tuple[str, str], ...]
    solver: str
    settings: dict[str, str]
    seconds: float
    layers: int

    @property
    def complete(self) -> bool:
        """Whether every layer was pruned."""
        return len(self.rows) == self.layers

    @property
    def density(self) -> float:
        """Kept weights over all weights of the pruned layers."""
        return _ratio(sum(row.kept for row in self.rows), sum(row.size for row in self.rows))

    @property
    def relative_error(self) -> float:
        """Sum of the damped squared errors over the sum of the squared norms."""
        return _ratio(sum(row.value for row in self.rows), sum(row.scale for row in self.rows))

    @property
    def undamped_error(self) -> float:
        """The same on X'X alone, of the written weights."""
        return _ratio(sum(row.undamped_value for row in self.rows), sum(row.undamped_scale for row in self.rows))

    @property
    def mean_error(self) -> float:
        """Mean over the layers of the damped relative error, in which each layer counts the same."""
        return _ratio(sum(row.relative_error for row in self.rows), len(self.rows))

    @property
    def bound(self) -> float | None:
        """Sum of the bounds over the sum of the squared norms; None unless every layer has one."""
        bounds = [row.bound for row in self.rows if row.bound is not None]
        if not bounds or len(bounds) < len(self.rows):
            return None
        return _ratio(sum(bounds), sum(row.scale for row in self.rows))

    @property
    def gap(self) -> float | None:
        """Certified gap of the sum of all layers' errors; None unless every layer has a bound."""
        if self.bound is None:
            return None
        return max(0.0, self.relative_error - self.bound) / max(self.relative_error, 1e-12)

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(
            {
                "rows": [row.to_dict() for row in self.rows],
                "skipped": [list(pair) for pair in self.skipped],
                "solver": self.solver,
                "settings": self.settings,
                "seconds": self.seconds,
                "layers": self.layers,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Restore what `to_json` wrote.

        Raises
        ------
        InvalidProblem
            If the text is no report.
        """
        try:
            data = json.loads(text)
            return cls(
                rows=tuple(LayerRow.from_dict(row) for row in data["rows"]),
                skipped=tuple((str(name), str(reason)) for name, reason in data["skipped"]),
                solver=data["solver"],
                settings=dict(data["settings"]),
                seconds=data["seconds"],
                layers=data["layers"],
            )
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidProblem(f"this text is not a report written by mipprune ({error})") from error

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[str, ...]]:
        """Return headers, rows and totals of the table of layers as text."""
        headers = ("layer", "shape", "density", "error", "error X'X", "bound", "gap", "proof", "seconds", "stop")
        rows: list[tuple[str, ...]] = [
            (
                row.layer,
                "x".join(map(str, row.shape)),
                f"{row.density:.4f}",
                _number(row.relative_error),
                _number(row.undamped_error),
                _number(row.relative_bound),
                _percent(row.gap),
                row.proof,
                f"{row.seconds:.1f}",
                row.stop + ("*" if row.notes else ""),
            )
            for row in self.rows
        ]
        total = (
            f"total, {len(self.rows)} layers",
            f"{sum(row.size for row in self.rows):,}",
            f"{self.density:.4f}",
            _number(self.relative_error),
            _number(self.undamped_error),
            _number(self.bound),
            _percent(self.gap),
            "",
            f"{self.seconds:.1f}",
            "" if self.complete else f"{self.layers - len(self.rows)} left",
        )
        return headers, rows, total

    def to_table(self) -> str:
        """Return the layers as lines of aligned text, with totals and notes."""
        headers, rows, total = self.cells()
        widths = [max(map(len, column)) for column in zip(headers, *rows, total)]
        rule = "  ".join("-" * width for width in widths)
        lines = [_aligned(headers, widths), rule, *(_aligned(row, widths) for row in rows), rule]
        notes = [f"* {row.layer}: {note}" for row in self.rows for note in row.notes]
        return "\n".join([*lines, _aligned(total, widths), *notes])

    def to_html(self, path: str | Path, *, title: str = "Pruning report", before: Sequence[str] = ()) -> Path:
        """Write a self-contained page: totals, plots of errors, gaps and times per layer, a sortable table.

        Parameters
        ----------
        path : path
            The file.
        title : str
            Heading of the page.
        before : sequence of str
            HTML of further sections, placed before those of the layers; see `mipprune.page`.

        Returns
        -------
        Path
            The file. It needs no network and follows the reader's light or dark setting.
        """
        target = Path(path)
        write_atomically(target, page.document(title, [*before, *self.sections()]).encode("utf-8"))
        return target

    def sections(self) -> list[str]:
        """Return the parts of the page as HTML."""
        tiles = [
            ("layers", f"{len(self.rows)}" if self.complete else f"{len(self.rows)} of {self.layers}"),
            ("density", f"{self.density:.4f}"),
            ("relative error", _number(self.relative_error)),
            ("certified gap", _percent(self.gap)),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        names = [row.layer for row in self.rows]
        parts = [page.tiles(tiles)]
        if self.rows:
            errors = [(row.relative_bound, row.relative_error) for row in self.rows]
            certified = any(row.gap is not None for row in self.rows)
            parts.append(page.section("Relative error of each layer", page.intervals(names, errors), _ERROR_NOTE))
            if certified:
                gaps = [None if row.gap is None else 100 * row.gap for row in self.rows]
                parts.append(page.section("Certified gap of each layer, per cent", page.bars(names, [gaps], ["gap"])))
            times: list[list[float | None]] = [[row.seconds - (row.certify_seconds or 0.0) for row in self.rows]]
            labels = ["solve"]
            if certified:
                times.append([row.certify_seconds for row in self.rows])
                labels.append("certify")
            parts.append(page.section("Seconds for each layer", page.bars(names, times, labels)))
        headers, rows, total = self.cells()
        parts.append(page.section("Layers", page.table(headers, rows, total), _BOUND_NOTE))
        notes = [(row.layer, note) for row in self.rows for note in row.notes]
        if notes:
            parts.append(page.section("Notes", page.table(("layer", "note"), notes)))
        if self.skipped:
            parts.append(page.section("Layers left alone", page.table(("layer", "reason"), self.skipped)))
        settings = [("solver", self.solver), *self.settings.items()]
        return [*parts, page.section("Settings", page.table(("setting", "value"), settings))]


_ERROR_NOTE = (
    "The filled part of a bar is proven: no weights with this structure have a smaller error in this layer's problem. "
    "The light part is the open gap, between the proven bound and the error reached."
)
_BOUND_NOTE = (
    "Errors are squared and relative to the dense outputs on the calibration data. Error, bound and gap refer to the "
    "float64 solution of the layer's damped problem (X'X plus damping), given the inputs that the layer saw; the "
    "column error X'X is that of the written weights without damping. They say nothing about other data or about the "
    "output of the whole network."
)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths)
    return "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]).rstrip()
