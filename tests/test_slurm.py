"""The recipes of example/clusters on a real Slurm, of this machine alone."""

import faulthandler
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "slurm"
COMMANDS = ("slurmctld", "slurmd", "munged", "mpiexec", "dask", "definetti")
RESULTS = ("preempted", "requeued", "followed", "stored", "dask", "mpi")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can start Slurm's daemons")
def test_slurm__every_recipe_ends_in_the_model_of_an_undisturbed_run():
    pytest.importorskip("mpi4py")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if missing := [command for command in COMMANDS if shutil.which(command, path=path) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    faulthandler.cancel_dump_traceback_later()  # because a busy machine takes longer than other tests may
    command = ["timeout", "1200", SCRIPT]  # which lets the script end the daemons
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [f"{name}: the same model" in done.stdout for name in RESULTS] == [True] * len(RESULTS), done.stdout
