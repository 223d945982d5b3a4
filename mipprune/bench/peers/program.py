"""Other packages in an interpreter of their own: ``PYTHON program.py NAME`` answers requests on its standard input.

It imports nothing of this package, so that any environment that has the named package and numpy will do (Python 3.9 or
newer). A request is one line of JSON: a file of arrays, and numbers. The answer is one line: a file of arrays, numbers,
and the seconds that the package itself took. The first request is preceded by a small one of its own, so that nothing
is compiled while the clock runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]
Numbers = Mapping[str, Any]
Found = tuple[dict[str, Any], dict[str, Any]]


def l0bnb(arrays: Arrays, numbers: Numbers) -> Found:
    """Branch and bound (arXiv 2004.06152); its gap is relative to its own objective, as ours is.

    With ``start`` it begins with the support of these coefficients.
    """
    from l0bnb import BNBTree

    tree = BNBTree(arrays["x"], arrays["y"])
    solution = tree.solve(
        numbers["l0"],
        numbers["l2"],
        numbers["box"],
        gap_tol=numbers["gap"],
        warm_start=arrays.get("start"),
        verbose=False,
        time_limit=numbers["seconds"],
    )
    # It keeps no bound but the gap, which is that of the last complete level. With nothing open the search is complete,
    # unless the gap ended it before it branched once more.
    done = tree.bfs_queue.qsize() == 0 and tree.dfs_queue.qsize() == 0 and solution.gap > numbers["gap"]
    lost = solution.gap * abs(solution.cost)
    bound = solution.cost if done else solution.cost - lost if 0 <= lost < 1e6 * abs(solution.cost) else None
    if not done and solution.gap == numbers["gap"] + 1:  # the value it starts with: no level is complete
        bound = None
    return {"points": np.asarray(solution.beta)[None]}, {"nodes": tree.number_of_nodes, "bound": bound}


def el0ps(arrays: Arrays, numbers: Numbers) -> Found:
    """Branch and bound with simultaneous pruning (arXiv 2506.06373).

    Its engine scales the relative gap by max(1, |objective|); ``value``, about the objective, turns the gap asked for
    into the absolute one.
    """
    from el0ps.datafit import Leastsquares
    from el0ps.penalty import BigmL2norm, L2norm
    from el0ps.solver import BnbSolver

    kept: dict[str, Any] = {}

    class Solver(BnbSolver):
        def package_results(self, problem: Any, results: Any) -> Any:
            kept["bound"] = results.bound
            return super().package_results(problem, results)

    box, l2 = numbers["box"], numbers["l2"]
    penalty = L2norm(l2) if box is None else BigmL2norm(box, l2)
    absolute = numbers["gap"] * abs(numbers["value"])
    solver = Solver(time_limit=numbers["seconds"], relative_gap=0.0, absolute_gap=absolute)
    solution = solver.solve(Leastsquares(arrays["y"]), penalty, arrays["x"], numbers["l0"])
    bound = float(kept["bound"])
    return {"points": np.asarray(solution.x)[None]}, {
        "nodes": solution.iter_count,
        "bound": bound if np.isfinite(bound) else None,
    }


def abess(arrays: Arrays, numbers: Numbers) -> Found:
    """Adaptive best-subset selection (arXiv 2110.09697) of one size, or of every size up to a number."""
    from abess import LinearRegression

    started = time.perf_counter()
    x = arrays["x"]
    varied = np.flatnonzero(x.max(axis=0) > x.min(axis=0))  # it refuses constant columns
    count = min(numbers["count"], len(varied))
    points = np.zeros((0, x.shape[1]))
    for size in [count] if numbers["fixed"] else range(1, count + 1):
        model = LinearRegression(support_size=[size], fit_intercept=False, thread=1)
        point = np.zeros(x.shape[1])
        point[varied] = model.fit(x[:, varied], arrays["y"]).coef_
        points = np.vstack([points, point])
        if time.perf_counter() - started > numbers["seconds"]:
            break
    return {"points": points}, {}


def skglm(arrays: Arrays, numbers: Numbers) -> Found:
    """The path of the minimax concave penalty (arXiv 2204.07826)."""
    from skglm import MCPRegression

    x, y = np.asfortranarray(arrays["x"]), arrays["y"]
    largest = float(np.abs(x.T @ y).max()) / len(y)
    if largest == 0:
        return {"points": np.zeros((1, x.shape[1]))}, {}
    model = MCPRegression(fit_intercept=False, gamma=3.0)
    started = time.perf_counter()
    points = [np.zeros(x.shape[1])]
    for penalty in largest * np.geomspace(0.99, 1e-3, 60):
        _, found, *_ = model.path(x, y, np.array([penalty]), coef_init=points[-1])
        points.append(np.ascontiguousarray(found[:, 0]))
        if np.count_nonzero(points[-1]) > 2 * numbers["count"] or time.perf_counter() - started > numbers["seconds"]:
            break
    return {"points": np.stack(points)}, {}


def skglm_graph(arrays: Arrays, numbers: Numbers) -> Found:
    """The adaptive graphical lasso along a path of penalties."""
    from skglm.covariance import AdaptiveGraphicalLasso

    started = time.perf_counter()
    covariance = arrays["covariance"]
    largest = float(np.abs(np.triu(covariance, 1)).max())
    points = [np.eye(len(covariance))]
    for penalty in largest * np.geomspace(1.0, 0.01, 20) if largest > 0 else ():
        model = AdaptiveGraphicalLasso(alpha=float(penalty), n_reweights=3, tol=1e-5)
        with contextlib.suppress(np.linalg.LinAlgError, ZeroDivisionError):  # too little penalty
            points.append(np.array(model.fit(covariance, mode="precomputed").precision_))
        if time.perf_counter() - started > numbers["seconds"]:
            break
    return {"points": np.stack(points)}, {}


def imodels(arrays: Arrays, numbers: Numbers) -> Found:
    """How RuleFit chooses among rule columns: the lasso with at most so many of them, by cross-validation."""
    from imodels.util.score import score_linear

    names = [f"{number} > 0.5" for number in range(arrays["x"].shape[1])]  # it reads its rules
    chosen, _, _ = score_linear(arrays["x"], arrays["y"], names, max_rules=numbers["count"], random_state=0)
    point = np.zeros(len(names))
    for rule in chosen:
        point[int(rule.rule.split()[0])] = rule.args[0]
    return {"points": point[None]}, {}


PEERS: dict[str, tuple[str, Callable[[Arrays, Numbers], Found]]] = {
    "l0bnb": ("l0bnb", l0bnb),
    "el0ps": ("el0ps", el0ps),
    "abess": ("abess", abess),
    "skglm": ("skglm", skglm),
    "skglm-graph": ("skglm", skglm_graph),
    "imodels": ("imodels", imodels),
}
"""Name -> the package to import, and what to do with it."""


def small(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a small request, which compiles and loads what the next one needs."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 30))
    y = x[:, 3] + x[:, 17] - x[:, 22] + 0.5 * rng.standard_normal(60)
    x, y = x / np.linalg.norm(x, axis=0), y / np.linalg.norm(y)
    arrays = {"x": x, "y": y, "covariance": np.cov(x[:, :5] * 8.0, rowvar=False)}
    numbers = {"l0": 0.01, "l2": 0.01, "box": 1.5, "count": 3, "fixed": True, "value": 0.2, "gap": 1e-3, "seconds": 5.0}
    return arrays, numbers


def version(package: str) -> str:
    """Return the installed version of a package that can be imported."""
    import importlib.metadata

    __import__(package)
    return importlib.metadata.version(package)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _answer(name: str, request: dict[str, Any], warm: bool) -> dict[str, Any]:
    run = PEERS[name][1]
    if not warm:
        run(*small(name))
    with np.load(request["file"]) as stored:
        arrays = {key: stored[key] for key in stored}
    _reset_peak()
    started = time.perf_counter()
    found, numbers = run(arrays, request["numbers"])
    seconds = time.perf_counter() - started
    np.savez(request["answer"], **found)
    return {"seconds": seconds, "memory": _peak(), "numbers": numbers}


def _reset_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _peak() -> float | None:
    """Highest resident bytes since then, where the system tells."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024.0
    return None


def main() -> None:
    """Say the version of the package, then answer until the input ends."""
    name = sys.argv[1]
    sys.path.pop(0)  # the folder of this file
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print must not mix with the answers
    try:
        ready: dict[str, Any] = {"version": version(PEERS[name][0])}
    except Exception as error:  # whatever keeps a package from being imported is the reason to leave it out
        ready = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(ready) + "\n")
    answers.flush()
    warm = False
    for line in sys.stdin:
        try:
            answer = _answer(name, json.loads(line), warm)
        except Exception as error:  # what a package raises is its answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        warm = True
        answers.write(json.dumps(answer, default=float) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
