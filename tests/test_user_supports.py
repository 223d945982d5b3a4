"""A user's own family of supports, as the documentation shows it: five methods, and everything works."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import mipprune as mp
from mipprune.testing import check_problem, check_solver, check_supports, enumerate_optimum
from tests.test_readme import python_blocks, run_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "own_supports.md"
EXAMPLE = ROOT / "examples" / "own_supports.py"


def run_page(page: Path) -> dict[str, Any]:
    """Execute all blocks of a page as one module and return its namespace."""
    module = ModuleType(page.stem)  # registered, since dataclasses look up the module of a class
    sys.modules[page.stem] = module
    assert run_blocks(page.read_text(encoding="utf-8"), str(page), module.__dict__) > 0
    return module.__dict__


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return run_page(PAGE)


@pytest.fixture(scope="module")
def family(page: dict[str, Any]) -> Any:
    """No two neighbours kept, at most 4 entries in each row."""
    return page["Spaced"](4)


def problem_of(family: mp.Supports, rows: int = 2, width: int = 6, **options: Any) -> mp.Problem:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(4 * width, width, generator=generator, dtype=torch.float64)
    inputs[:, 1:] += 0.8 * inputs[:, :-1]  # neighbours are correlated
    weight = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return mp.formulations.layerwise(weight, inputs.T @ inputs, mp.Sparse(family, **options))


def test_it_has_five_methods_and_no_more(page: dict[str, Any]) -> None:
    own = {name for name in vars(page["Spaced"]) if not name.startswith("_")} - {"count", "on", "off"}
    assert own == {"select", "select_bound", "violation", "constraints", "restrict"}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_it_passes_the_suite(page: dict[str, Any], count: int) -> None:
    check_supports(page["Spaced"](count), (2, 5), trials=4)


@pytest.mark.parametrize("options", [{}, {"price": 2.0}, {"box": 0.6}], ids=["plain", "price", "box"])
def test_its_problems_pass_the_suite(family: Any, options: dict[str, Any]) -> None:
    check_problem(problem_of(family, **options), trials=2)


@pytest.mark.exact
def test_every_solver_takes_it_and_the_optima_agree(family: Any) -> None:
    problem = problem_of(family)
    optimum, _ = enumerate_optimum(problem)
    exact = mp.solve(problem, mp.Scip())
    tree = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-9))
    assert tree.status is mp.Status.OPTIMAL and tree.proof is mp.Proof.CHECKED
    mp.check(problem, tree)
    mp.check(problem, tree, exact=True)
    assert exact.status is mp.Status.OPTIMAL
    assert exact.value == pytest.approx(optimum, rel=1e-5)
    assert tree.value == pytest.approx(optimum, rel=1e-9)
    solution = mp.certify(problem, mp.solve(problem, mp.ADMM()), iterations=200)
    assert mp.check(problem, solution).bound <= optimum <= solution.value * (1 + 1e-12)
    assert solution.bound > 0.3 * optimum  # a useful bound, not only a valid one


@pytest.mark.parametrize("solver", [mp.ADMM(), mp.BranchAndBound(), mp.ProjectedGradient()], ids=lambda s: s.name)
def test_solvers_keep_their_promises_on_it(family: Any, solver: Any) -> None:
    problem = problem_of(family)
    assert check_solver(solver, problem, optimum=enumerate_optimum(problem)[0]) is not None


def test_the_tree_closes_larger_problems(family: Any) -> None:
    problem = problem_of(family, rows=1, width=14)
    optimum, _ = enumerate_optimum(problem)
    tree = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-6))
    assert tree.value == pytest.approx(optimum, rel=1e-6)
    assert mp.check(problem, tree).gap <= 1e-6


def test_masks_of_the_family_can_be_selected(family: Any) -> None:
    score = torch.randn(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    problem = mp.Problem(mp.Linear(-score), mp.Masks(family))
    solution = mp.solve(problem)
    assert solution.status is mp.Status.OPTIMAL
    assert solution.value == pytest.approx(enumerate_optimum(problem)[0])


def test_the_example_is_the_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The example holds the page's family line by line, and runs."""
    first = python_blocks(PAGE.read_text(encoding="utf-8"))[0][1]
    source = EXAMPLE.read_text(encoding="utf-8")
    body = first[first.index("@dataclass") :].strip()
    assert body in source
    monkeypatch.setitem(sys.modules, "own_supports_example", module := ModuleType("own_supports_example"))
    exec(compile(source, str(EXAMPLE), "exec"), module.__dict__)
    module.__dict__["main"]()
    assert "optimal" in capsys.readouterr().out
