"""Train with the processes that MPI has started:    mpiexec -n 64 python -m mpi4py.futures mpi_jobs.py MODEL"""

import sys

import two_widths
from mpi4py.futures import MPIPoolExecutor

from definetti_np import train

if __name__ == "__main__":
    with MPIPoolExecutor() as executor:
        train(**two_widths.SETTINGS, executor=executor, save_path=sys.argv[1], resume=True)
