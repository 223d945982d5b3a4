"""The exception types of the package.

Reaching a limit is a status of a solution, never an error. Every message says what was found, why it
is a problem, and what to do about it.
"""

from __future__ import annotations

__all__ = ["CertificateError", "InvalidProblem", "MippruneError", "SolverFailure", "Unsupported"]


class MippruneError(Exception):
    """Base class of every error raised by the package."""


class InvalidProblem(MippruneError, ValueError):
    """The data of a problem are unusable: wrong shape, non-finite, not symmetric, not positive semidefinite."""


class Unsupported(MippruneError, TypeError):
    """A solver was asked for a problem it does not take; the message names solvers that would."""


class CertificateError(MippruneError, ValueError):
    """A stored number does not agree with what is recomputed from the data."""


class SolverFailure(MippruneError, RuntimeError):
    """A back end broke down; the message carries its own words."""
