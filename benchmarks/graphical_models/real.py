"""Graphs of real data: S&P-500 returns beside the graphical lasso, riboflavin genes; stability over halves.

    python -m benchmarks.graphical_models.real --data FOLDER

FOLDER holds ``stockdata.npz`` (prices, info) and ``riboflavin.npz`` (X), see the README of the benchmarks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, Unavailable, say
from mipprune.kernels.pairs import split_pairs
from mipprune.solvers import EdgeDescent

Array = np.ndarray[Any, Any]
STOCKS = ((0.1, 0.05), (0.2, 0.05), (0.2, 0.5), (0.49, 2.0), (0.196, 8.0), (0.256, 8.0), (0.058, 32.0))
GENES = ((0.1, 0.05), (0.2, 0.05), (0.81, 2.0), (0.324, 8.0), (0.095, 32.0), (0.106, 32.0))
"""Prices and ridges: the first are weak penalties, the others such that bounds come close."""


def load(folder: Path | None, name: str) -> dict[str, Array]:
    """Return the arrays of a file or say that it is absent."""
    path = None if folder is None else folder / name
    if path is None or not path.is_file():
        raise Unavailable(f"{name} is not in the folder given by --data")
    with np.load(path, allow_pickle=True) as stored:
        return {key: stored[key] for key in stored}


def fit(
    data: Array, price: float, ridge: float, seconds: float, *, bound: bool = True
) -> tuple[mp.Solution, Array, float]:
    """Return the solution, its edges (pairs), and the seconds it took."""
    started = time.perf_counter()
    problem = mp.formulations.graphical_model(torch.from_numpy(np.ascontiguousarray(data)), l0=price, l2=ridge)
    solution = EdgeDescent(bound=bound).solve(problem, budget=mp.Budget(seconds=seconds))
    mp.check(problem, solution)
    edges = np.stack(split_pairs(solution.mask.numpy().nonzero()[0], data.shape[1]), axis=1)
    return solution, edges, time.perf_counter() - started


def stability(data: Array, price: float, ridge: float, seconds: float, seeds: int) -> list[float]:
    """Return the share of edges that two halves of the samples have in common (Jaccard), for each seed."""
    shares = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(data))
        halves = [order[: len(order) // 2], order[len(order) // 2 :]]
        first, second = (
            {tuple(edge) for edge in fit(data[half], price, ridge, seconds, bound=False)[1].tolist()} for half in halves
        )
        shares.append(len(first & second) / max(len(first | second), 1))
    return shares


def lasso(data: Array) -> tuple[Array, float]:
    """Return the edges of the cross-validated graphical lasso, the strongest first, and seconds."""
    from sklearn.covariance import GraphicalLassoCV

    started = time.perf_counter()
    model = GraphicalLassoCV(alphas=[0.1, 0.2, 0.4], cv=3, max_iter=100, tol=1e-2, assume_centered=True).fit(data)
    strength = np.abs(np.triu(model.precision_, 1))
    i, j = np.nonzero(strength > 1e-8)
    order = np.argsort(-strength[i, j], kind="stable")
    return np.stack([i[order], j[order]], axis=1), time.perf_counter() - started


def within(edges: Array, groups: Array) -> float:
    """Return the share of edges inside a group."""
    return float(np.mean(groups[edges[:, 0]] == groups[edges[:, 1]])) if len(edges) else float("nan")


def row(data: Array, price: float, ridge: float, seconds: float, seeds: int) -> tuple[dict[str, Any], Array]:
    """Return one line of the table, and the edges."""
    solution, edges, taken = fit(data, price, ridge, seconds)
    assert solution.bound is not None
    shares = stability(data, price, ridge, seconds, seeds)
    return {
        "method": "L0",
        "price": price,
        "ridge": ridge,
        "edges": len(edges),
        "value": solution.value,
        "bound": solution.bound,
        "edges_gap": (solution.value - solution.bound) / price,
        "stability": float(np.mean(shares)),
        "stability_by_seed": shares,
        "seconds": taken,
    }, edges


def run(
    folder: Path | None,
    out: Path,
    *,
    settings: tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]] = (STOCKS, GENES),
    seconds: float = 20.0,
    seeds: int = 3,
    compare: bool = True,
    genes: int = 500,
) -> None:
    """Fit and record."""
    stocks = load(folder, "stockdata.npz")
    returns = np.diff(np.log(stocks["prices"].astype(np.float64)), axis=0)
    returns = (returns - returns.mean(axis=0)) / returns.std(axis=0)
    sectors = stocks["info"][:, 1].astype(str)
    fresh = Record(
        name="graphical_models.real",
        title="Graphical models of real data: edges within sectors, stability, gaps",
        instance={"seconds": seconds, "seeds": seeds, "genes": genes},
        columns=(
            ("data", "data", ""),
            ("method", "method", ""),
            ("price", "l0", ""),
            ("ridge", "l2", ""),
            ("edges", "edges", ""),
            ("within", "share within a sector", ".3f"),
            ("stability", "edges common to both halves", ".3f"),
            ("edges_gap", "gap / l0", ".2f"),
            ("seconds", "seconds", ".1f"),
        ),
        command="python -m benchmarks.graphical_models.real --data FOLDER",
        notes=(
            "Daily log returns of 452 companies (1,257 days), standardised; of the riboflavin data (71 samples) the"
            " genes with the largest variance. Edges common to both halves: mean over seeds of the Jaccard index of the"
            " graphs of two halves of the samples. The penalty of the graphical lasso is chosen by 3-fold"
            " cross-validation from 0.1, 0.2 and 0.4; all its edges are shown, and as many of its largest entries as"
            " the L0 graphs have edges. S is nearly singular (smallest eigenvalue 0.06; exactly so for the genes), so"
            " bounds are weak with a small ridge. They come close where the ridge is large beside the curvature of the"
            " data: the prices at which an edge enters the relaxation and the graph differ by a factor of about"
            " 1 + 2/l2.",
        ),
    )
    path = out / "graphical_models_real.json"
    record = Record.open(path, fresh)
    for price, ridge in settings[0]:
        if not record.has(data="S&P 500", method="L0", price=price, ridge=ridge):
            line, edges = row(returns, price, ridge, seconds, seeds)
            record.add(path, {"data": "S&P 500", "within": within(edges, sectors), **line})
            say(f"{line}")
    if compare and not record.has(method="graphical lasso, all edges"):
        every, taken = lasso(returns)
        counts = sorted({r["edges"] for r in record.results if r["data"] == "S&P 500" and r["ridge"] == 0.05})
        lines = {f"graphical lasso, its strongest {count}": count for count in counts}
        for name, count in {**lines, "graphical lasso, all edges": len(every)}.items():
            kept = every[:count]
            shown = {"data": "S&P 500", "method": name, "edges": len(kept), "within": within(kept, sectors)}
            record.add(path, {**shown, "seconds": taken})
            say(f"{shown}")
    x = load(folder, "riboflavin.npz")["X"].astype(np.float64)
    x = x[:, np.sort(np.argsort(-x.var(axis=0), kind="stable")[:genes])]
    for price, ridge in settings[1]:
        if not record.has(data="riboflavin", price=price, ridge=ridge):
            line, _ = row(x, price, ridge, seconds, seeds)
            record.add(path, {"data": "riboflavin", **line})
            say(f"{line}")


def quick(data: Path | None, out: Path) -> None:
    """One price, no lasso, 100 genes."""
    settings = (((0.2, 8.0),), ((0.1, 0.05),))
    run(None if data is None else data / "ggm", out, settings=settings, seconds=5.0, seeds=1, compare=False, genes=100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    run(options.data, options.out)


if __name__ == "__main__":
    main()
