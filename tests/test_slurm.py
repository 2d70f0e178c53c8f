"""The recipes of example/clusters on a real Slurm, of this machine alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "slurm"
RESULTS = ("preempted", "requeued", "followed", "stored", "dask", "mpi")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("slurmctld") is None, reason="Slurm is not installed")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start its daemons")
def test_slurm__every_recipe_ends_in_the_model_of_an_undisturbed_run():
    pytest.importorskip("distributed")
    pytest.importorskip("mpi4py")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run([SCRIPT], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [f"{name}: the same model" in done.stdout for name in RESULTS] == [True] * len(RESULTS), done.stdout
