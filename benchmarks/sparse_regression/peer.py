"""One run of a published code on one instance, in an environment of its own: prints one line of JSON.

    PYTHON benchmarks/sparse_regression/peer.py NAME FILE.npz GAP SECONDS

NAME is ``l0bnb`` (needs numpy 1) or ``el0ps`` (needs an MPI library). The script imports nothing of this package, so
that any environment will do. Tolerances are matched: el0ps scales its relative gap by max(1, |objective|), so that on
data of unit norm the gap has to be multiplied by the objective, which is given in the file.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np


def main() -> None:
    """Run and print."""
    name, file, gap, seconds = sys.argv[1], np.load(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    x, y = file["x"], file["y"]
    l0, l2, box, value = (float(file[key]) for key in ("l0", "l2", "box", "value"))
    run = _l0bnb if name == "l0bnb" else _el0ps
    run(x[:, :40], y, l0, l2, box, value, gap, 5.0)  # compiles
    started = time.perf_counter()
    beta, nodes = run(x, y, l0, l2, box, value, gap, seconds)
    elapsed = time.perf_counter() - started
    residual = y - x @ beta
    found = 0.5 * residual @ residual + l0 * np.count_nonzero(beta) + l2 * beta @ beta
    print(json.dumps({"value": float(found), "nodes": int(nodes), "seconds": elapsed}))


def _l0bnb(x, y, l0, l2, box, value, gap, seconds):  # type: ignore[no-untyped-def]
    from l0bnb import BNBTree

    tree = BNBTree(x, y)
    solution = tree.solve(l0, l2, box, gap_tol=gap, verbose=False, time_limit=seconds)
    return np.asarray(solution.beta), tree.number_of_nodes


def _el0ps(x, y, l0, l2, box, value, gap, seconds):  # type: ignore[no-untyped-def]
    from el0ps.datafit import Leastsquares
    from el0ps.penalty import BigmL2norm
    from el0ps.solver import BnbSolver

    solver = BnbSolver(time_limit=seconds, relative_gap=gap * value)
    solution = solver.solve(Leastsquares(y), BigmL2norm(box, l2), x, l0)
    return np.asarray(solution.x), solution.iter_count


if __name__ == "__main__":
    main()
