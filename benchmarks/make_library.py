"""Prove the optima of the instance library and write them: ``python -m benchmarks.make_library [--only FAMILY]``.

Every optimum is proven twice, by the package's tree (a certificate that is evaluated again) and by SCIP or HiGHS (a
claim); an instance on which they differ by more than 1e-6 is not written. Entries that are there already stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mipprune as mp
from benchmarks.common import ROOT, say
from mipprune.bench import families

TARGET = ROOT.parent / "mipprune" / "bench" / "library.json"
_TOLERANCE = 1e-6

CHOSEN: dict[str, Sequence[dict[str, Any]]] = {
    "layerwise": [
        {"inputs": inputs, "outputs": outputs, "structure": structure}
        for inputs, outputs in ((12, 1), (16, 1), (8, 2))
        for structure in ("0.5", "0.25", "2:4")
    ],
    "transposable_masks": [
        {"scores": scores, "rows": 16, "pattern": pattern}
        for scores in ("gaussian", "t3", "columns", "integers")
        for pattern in ("2:4", "4:8", "8:16")
    ],
    "flop_selection": [
        {"weights": 600, "nnz": nnz, "flops": flops, "costs": costs}
        for nnz, flops in ((0.2, 0.2), (0.3, 0.1), (0.1, 0.3))
        for costs in ("resnet", "distinct")
    ],
    "sparse_regression": [
        {"samples": 60, "columns": columns, "support": 3, "rho": 0.3, "snr": 5.0, "form": form}
        for columns in (12, 20)
        for form in ("price", "count")
    ],
    "graphical_models": [
        {"nodes": nodes, "samples": 10 * nodes, "l0": l0, "l2": 0.05, "model": model}
        for nodes, l0 in ((4, 0.02), (5, 0.05))
        for model in ("uniform", "banded")
    ],
    "rule_selection": [
        {"trees": 2, "depth": 3, "rows": 100, "count": 4, "gamma": gamma, "antichain": antichain}
        for gamma in (0.01, 0.05)
        for antichain in (True, False)
    ],
}
"""Parameters by family; seeds 0 and 1 of each."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prove what is missing and write the library."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.make_library", description=__doc__.split(":")[0])
    parser.add_argument("--only", choices=sorted(CHOSEN), help="one family")
    parser.add_argument("--seconds", type=float, default=120.0, help="limit of each proof")
    options = parser.parse_args(arguments)
    entries = {entry["name"]: entry for entry in json.loads(TARGET.read_text())}
    for family, chosen in CHOSEN.items():
        for parameters in chosen if options.only in (None, family) else ():
            for seed in (0, 1):
                name = "-".join([family, *(f"{key}{value}" for key, value in parameters.items()), f"s{seed}"])
                name = name.replace(":", "of")
                if name not in entries:
                    found = prove(family, parameters, seed, options.seconds)
                    say(f"{name}: {'not proven' if found is None else found['optimum']}")
                    if found is not None:
                        entries[name] = {"name": name, **found}
    write(TARGET, list(entries.values()))


def prove(family: str, parameters: dict[str, Any], seed: int, seconds: float) -> dict[str, Any] | None:
    """Return an entry without its name, or None when the proofs do not agree."""
    problem = families.find(family).build(seed=seed, **parameters)
    budget = mp.Budget(seconds=seconds, gap=_TOLERANCE)
    ours = mp.solve(problem, budget=budget)
    if ours.proof is not mp.Proof.CHECKED or not ours.gap_closed:
        ours = mp.solve(problem, mp.BranchAndBound(), budget=budget)
    exact = next(solver for solver in (mp.Highs(), mp.Scip()) if solver.rejects(problem) is None)
    theirs = mp.solve(problem, exact, budget=budget)
    agree = abs(ours.value - theirs.value) <= 2 * _TOLERANCE * max(1.0, abs(ours.value))
    if not (ours.gap_closed and theirs.gap is not None and theirs.gap <= 1e-4 and agree):
        return None
    claim = theirs.claim
    return {
        "family": family,
        "parameters": parameters,
        "seed": seed,
        "fingerprint": problem.fingerprint,
        "optimum": min(ours.value, theirs.value),
        "proof": f"certificate of {ours.solver} (gap {ours.gap or 0.0:.1e}); "
        f"{claim.solver if claim else exact.name} {claim.version if claim else ''} agrees",
    }


def write(target: Path, entries: list[dict[str, Any]]) -> None:
    """Write one entry per line, so that changes are seen line by line."""
    lines = ",\n".join("  " + json.dumps(entry) for entry in sorted(entries, key=lambda entry: str(entry["name"])))
    target.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
