"""Shared fixtures: devices, random generators, threads, hypothesis profiles, the exact solvers."""

from __future__ import annotations

import importlib
import os
import signal
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# The suite runs in several processes; more threads than this in each only fight for the cores.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))

# A suite that a shell starts in the background has Ctrl-C ignored, in its children too; tests send it to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the first example compiles kernels. Continuous integration must not fail on another draw than the one
# a contributor can repeat, so there the examples are a function of the test alone.
settings.register_profile("local", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device present")],
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU and, when present, the GPU."""
    return torch.device(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    """A torch generator with a fixed seed; global seeds are never set."""
    return torch.Generator().manual_seed(20261120)


@pytest.fixture
def rng() -> np.random.Generator:
    """A numpy generator with a fixed seed."""
    return np.random.default_rng(20261120)


def require(module: str) -> ModuleType:
    """Import a module or fail the test: what the package depends on must not be missing silently."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"{module} cannot be imported ({error}); it is a dependency, so its tests fail instead of skipping")


@pytest.fixture(scope="session")
def scip() -> ModuleType:
    """The module pyscipopt; a test that asks for it fails when SCIP is missing."""
    return require("pyscipopt")


@pytest.fixture(scope="session")
def highs() -> ModuleType:
    """The module highspy; a test that asks for it fails when HiGHS is missing."""
    return require("highspy")
