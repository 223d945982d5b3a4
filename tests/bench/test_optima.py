"""The instance library: every optimum is proven again, models and the .solu file agree, wrong entries are seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import mipprune as mp
from mipprune.bench import Known, export, families, known_optima, library, verify
from mipprune.errors import InvalidProblem


def test_every_family_has_instances_with_distinct_names() -> None:
    names = [entry.name for entry in library()]
    assert len(names) == len(set(names)) == len(known_optima())
    assert {entry.family for entry in library()} == {family.name for family in families.ALL}
    assert all(entry.proof for entry in library())


@pytest.mark.exact
@pytest.mark.parametrize("family", [family.name for family in families.ALL])
def test_the_optima_are_proven_again(family: str) -> None:
    found = list(verify([family], seconds=60.0))
    assert found and [(entry.name, fault) for entry, fault in found if fault is not None] == []


def _with(monkeypatch: pytest.MonkeyPatch, entry: Known) -> str | None:
    monkeypatch.setattr("mipprune.bench.optima.library", lambda: (entry,))
    ((_, fault),) = verify()
    return fault


def test_a_wrong_optimum_or_other_data_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(entry for entry in library() if entry.family == "layerwise")
    higher = replace(entry, optimum=entry.optimum * 1.001)
    lower = replace(entry, optimum=entry.optimum * 0.999)
    assert "the value found is" in str(_with(monkeypatch, higher))
    assert "above the stored optimum" in str(_with(monkeypatch, lower))
    assert "random numbers" in str(_with(monkeypatch, replace(entry, fingerprint="0" * 64)))


@pytest.mark.exact
def test_models_for_other_solvers_have_the_stored_optimum(tmp_path: Path) -> None:
    import pyscipopt

    chosen = [next(entry.name for entry in library() if entry.family == family.name) for family in families.ALL]
    *models, solu = export(tmp_path, chosen, ".cip")
    lines = dict(line.split()[1:] for line in solu.read_text().splitlines())
    assert len(models) == len(lines) == len(chosen)
    for model in models:
        scip = pyscipopt.Model()
        scip.hideOutput()
        scip.readProblem(str(model))
        scip.optimize()
        assert scip.getObjVal() == pytest.approx(float(lines[model.stem]), rel=1e-4)


def test_unknown_names_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblem, match="nothing named x"):
        list(verify(["x"]))
    with pytest.raises(InvalidProblem, match="nothing named x"):
        export(tmp_path, ["x"])


def test_instances_are_the_same_each_time() -> None:
    for family in families.ALL:
        first, second, other = (family.tiny_problem(seed) for seed in (0, 0, 1))
        assert first.fingerprint == second.fingerprint != other.fingerprint


def test_solvers_of_each_family_take_its_tiny_instance_or_say_why() -> None:
    for family in families.ALL:
        problem = family.tiny_problem()
        taken = [name for name, make in family.solvers.items() if make().rejects(problem) is None]
        assert len(taken) >= 3, f"{family.name}: only {taken}"
        for make in family.solvers.values():
            assert isinstance(make(), mp.Solver)
        assert json.loads(json.dumps(dict(family.tiny))) == dict(family.tiny), "parameters are plain data"
