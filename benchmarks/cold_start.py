"""Time whole processes: importing the package, and the first training step with an empty and a filled Numba cache.

    python benchmarks/cold_start.py

The first step is that of the hotspot network on 50 made-up datasets with 40 distinct rows each. Its time is that of
the whole process: starting Python, importing Numba, compiling the kernels or loading them, and the step.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from common import BATCH_SIZE, HOTSPOT, show, show_machine

STEP = f"""
import numpy as np
from definetti_np import Network, Trainer
distinct = np.random.default_rng(1).integers(0, 2, ({BATCH_SIZE}, 40, *{HOTSPOT["input_shape"][1:]}))
data = distinct[:, np.arange({HOTSPOT["input_shape"][0]}) % 40].astype(np.float32)
labels = np.eye(2, dtype=np.float32)[np.arange({BATCH_SIZE}) % 2]
Trainer(Network(**{HOTSPOT!r}, seed=1)).step(data, labels)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind (default 5)")
    rounds = parser.parse_args().rounds

    show_machine()
    seconds = {}
    for turn in range(rounds + 1):  # the first turn writes the bytecode caches and is not counted
        with tempfile.TemporaryDirectory() as cache:
            for name, code in (
                ("python, for comparison", "pass"),
                ("import definetti_np", "import definetti_np"),
                ("from definetti_np import train", "from definetti_np import train"),
                ("import numpy, numba, for comparison", "import numpy, numba"),
                ("first step, empty cache", STEP),
                ("first step, filled cache", STEP),
            ):
                elapsed = run(code, cache)
                if turn > 0:
                    seconds.setdefault(name, []).append(elapsed)
    for name, values in seconds.items():
        show(name, np.array(values), "s", 1)


def run(code: str, cache: str) -> float:
    """Return the seconds that a new Python process takes for the code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "NUMBA_CACHE_DIR": cache})
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
