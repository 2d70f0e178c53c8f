"""Numba's threads do not survive a fork, and Numba does not notice: what to do in the child.

Numba runs parallel loops on GNU OpenMP unless another layer is chosen. In a child of the process that started its
threads it raises SIGTERM and returns *without having computed anything*; where the signal is ignored or handled, the
caller goes on with memory that nobody has written. In a grandchild it waits for ever for threads that are not there.

So in every process that is forked after those threads have started, this module tells GNU OpenMP to run each loop in
the thread that asks for it. Loops of simulators, and of processes that simulators start, run so too, because it may be
our kernels that have started the threads. And no process is forked while another thread compiles, because Numba could
never compile there.
This module does not import Numba; it looks at what others have imported.
"""

import ctypes
import multiprocessing
import sys
import threading
from typing import Any

from .process import after_fork, pause_for_fork

# Whether Numba started its threads in a process that this one was forked from: here they are missing. It is a variable,
# because every kernel asks.
are_lost = False


def _have_started() -> bool:
    return getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", False)


def _note_fork() -> None:
    global are_lost
    are_lost = are_lost or _have_started()
    if are_lost:
        _renew_locks()
        _run_loops_in_one_thread()


def _renew_locks() -> None:
    """Replace the locks around the start of threads: processes share one, and one that holds it may be killed."""
    parallel = sys.modules["numba.np.ufunc.parallel"]
    for name in ("_backend_init_process_lock", "_backend_init_thread_lock"):
        if hasattr(parallel, name):
            setattr(parallel, name, threading.RLock())


def _run_loops_in_one_thread() -> None:
    """Let GNU OpenMP run loops in this process; the other layers start threads anew."""
    layer = sys.modules.get("numba.np.ufunc.omppool")
    if layer is not None and getattr(layer, "openmp_vendor", None) == "GNU":
        threads = sys.modules["numba.np.ufunc.parallel"].NUM_THREADS
        ctypes.CFUNCTYPE(None, ctypes.c_int)(layer.launch_threads)(threads)  # it notes the id of this process
        ctypes.CDLL(layer.__file__).omp_set_max_active_levels(0)  # whatever number of threads a loop asks for


def _may_be_a_fork() -> bool:
    """Whether `multiprocessing` has made this process, and not as a new one by ``spawn``."""
    return multiprocessing.parent_process() is not None and "--multiprocessing-fork" not in sys.orig_argv


_no_compiler = threading.RLock()
_held = threading.local()  # the lock that this thread holds while it forks


def compiler_lock() -> Any:
    """The lock that a thread holds while it compiles; one that nobody holds where Numba has not been imported."""
    module = sys.modules.get("numba.core.compiler_lock")
    return getattr(module, "global_compiler_lock", None) or _no_compiler


def _wait_for_compiler() -> None:
    _held.lock = compiler_lock()
    _held.lock.acquire()


def _leave_compiler() -> None:
    _held.lock.release()


pause_for_fork(_wait_for_compiler, _leave_compiler)
after_fork(_note_fork)
if _may_be_a_fork():  # maybe after the start of Numba's threads and before this module was imported
    _note_fork()
