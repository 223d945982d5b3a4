"""The example on rules, run as a user would."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_from_a_forest_to_rules_a_certificate_and_a_query() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "readable_rules.py")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("10 rules out of")
    assert len(re.findall(r"^[+-].* IF ", run.stdout, re.MULTILINE)) == 10
    value, bound, gap = map(
        float, re.search(r"objective ([\d.]+), no choice is below ([\d.]+): gap ([\d.]+) %", run.stdout).groups()
    )
    assert bound <= value and gap < 5
    assert float(re.search(r"difference from predict: (\S+)", run.stdout)[1]) < 1e-9
