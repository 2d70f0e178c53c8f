"""One thread for the BLAS and OpenMP of this process: its siblings use the other cores."""

import contextlib
import ctypes
import os
import re

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
LIBRARIES = re.compile(r"/lib[^/]*(openblas|mkl_rt|blis|gomp|iomp5|omp)[^/]*\.so")
SETTERS = [
    *(f"{before}openblas_set_num_threads{after}" for before in ("", "scipy_") for after in ("", "64_", "_64")),
    "MKL_Set_Num_Threads",
    "bli_thread_set_num_threads",
    "omp_set_num_threads",
]


def use_one_thread() -> None:
    """Tell the libraries that are loaded by calling them, and those that will be by environment variables."""
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
    # A library reads its variable when it is loaded, which NumPy's is by now. Only Linux has this list of files.
    with contextlib.suppress(OSError), open("/proc/self/maps", errors="replace") as maps:
        for path in {line.split(maxsplit=5)[5].strip() for line in maps if LIBRARIES.search(line)}:
            with contextlib.suppress(OSError):
                library = ctypes.CDLL(path)
                for setter in SETTERS:
                    if hasattr(library, setter):
                        getattr(library, setter)(ctypes.c_int(1))
