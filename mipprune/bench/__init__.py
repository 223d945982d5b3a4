"""The solver benchmark: families of instances, solvers judged by the problems themselves, records, one report."""

from __future__ import annotations

from . import families
from .comparison import Change, compare
from .faults import Fault, find_faults
from .jobs import Job, expand
from .metrics import gap_integral, performance_profile, primal_integral, shifted_geometric_mean
from .optima import Known, export, known_optima, library, verify
from .peers import choose_pythons
from .records import Record, Store, frame, pack
from .report import csv, html, markdown
from .runner import executor, run
from .verdict import Verdict, judge

__all__ = [
    "Change",
    "Fault",
    "Job",
    "Known",
    "Record",
    "Store",
    "Verdict",
    "choose_pythons",
    "compare",
    "csv",
    "executor",
    "expand",
    "export",
    "families",
    "find_faults",
    "frame",
    "gap_integral",
    "html",
    "judge",
    "known_optima",
    "library",
    "markdown",
    "pack",
    "performance_profile",
    "primal_integral",
    "run",
    "shifted_geometric_mean",
    "verify",
]
