"""Bounds that the documentation computes with NumPy alone agree with those that the package checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mipprune as mp
from tests.test_readme import run_blocks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "certificates.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "certificates_page"}
    assert run_blocks(PAGE.read_text(encoding="utf-8"), str(PAGE), names) == 4
    return names


def test_layers_and_masks_agree_to_rounding(page: dict[str, Any]) -> None:
    assert page["layer_bound"] == pytest.approx(page["solution"].bound, rel=1e-9)
    assert page["layer_value"] == pytest.approx(page["solution"].value, rel=1e-9)
    assert page["most"] == pytest.approx(-page["mask"].bound, rel=1e-9)


def test_roots_lie_below_what_their_trees_prove(page: dict[str, Any]) -> None:
    assert page["root_value"] == pytest.approx(page["columns"].value, rel=1e-9)
    slack = 1e-9 * abs(page["root_value"])
    assert page["root_bound"] <= page["columns"].bound + slack
    assert 0.9 * page["columns"].bound <= page["root_bound"], "the stored point is the relaxation's"
    assert page["graph_bound"] <= page["edges"].value
    mp.check(page["regression"], page["columns"], exact=True)
