"""Train with the cores of many machines, which Dask reaches. For a scheduler that is there:

    python dask_jobs.py tcp://scheduler:8786

or, inside an allocation of several tasks of Slurm, with dask.sbatch.
"""

import sys

import two_widths
from distributed import Client

from definetti_np import train

if __name__ == "__main__":
    where = {"address": sys.argv[1]} if "://" in sys.argv[1] else {"scheduler_file": sys.argv[1]}
    with Client(**where) as client:
        client.wait_for_workers(1, timeout=600)  # seconds
        train(**two_widths.SETTINGS, executor=client.get_executor(), save_path=sys.argv[2], resume=True)
        client.shutdown()
