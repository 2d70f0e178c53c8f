"""Settings of the test suite."""

import os
import resource

# Numba reads this when it is imported; with it, 3 and 4 threads are real ones on a machine with fewer cores.
os.environ["NUMBA_NUM_THREADS"] = "4"
os.environ["SOURCE_DATE_EPOCH"] = "1800000000"  # so that files are equal also if midnight comes between them
os.environ["PYTHON_COLORS"] = "0"  # in the tracebacks of programs that tests start

import pytest
import sessions
from hypothesis import settings

# The first example may compile kernels; a failing example is printed, and found again without a database.
settings.register_profile("definetti_np", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("definetti_np")

sessions.restore_signals()
resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # some simulators crash


@pytest.fixture(autouse=True)
def _no_session_survives():
    yield
    while sessions.started:
        sessions.started.pop().kill()
