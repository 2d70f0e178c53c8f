"""How every kernel is compiled, cached and run in parallel: the only file that knows Numba's options.

A kernel computes one block of its output, and running it for all blocks, in any order and by any number of
threads, writes the same bits. A ``prange`` over array arguments takes Numba seconds to compile for every
function, so there is exactly one parallel loop, over integers: it calls a kernel, compiled as a C callback,
through its address. The loop is compiled once; a kernel is then an ordinary function.
"""

import array
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import event
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from .. import numba_threads
from ..process import after_fork
from ._cache import compile_with_cache

logger = logging.getLogger("definetti_np")

# "contract" lets a product and a sum become one fused instruction; nothing is reordered.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}

FEW_BYTES = 2**17  # of all arguments of a kernel: below it waking threads takes longer than the kernel

SPIN_COUNT = "10000"  # of OpenMP's threads after a loop: some 0.1 ms

DTYPES = {np.dtype(name): getattr(types, name) for name in ("float32", "float64", "int32", "int64", "uint8")}

_config: Any = numba.config  # Numba makes its attributes when it is imported


class Kernel:
    """A function ``(block, arguments)`` to be called as ``kernel(number_of_blocks, *arguments)``.

    The arguments are C-contiguous arrays, ints and floats; the function unpacks them from ``arguments[0]``.
    Each combination of array types is compiled once and kept in Numba's cache on disk.
    """

    def __init__(self, function: Callable):
        function.__qualname__ += f"-{_sources_stamp()}"  # Numba caches by this name, and by no other file
        self.function = function
        self.__doc__ = function.__doc__
        self._callbacks: list[CFunc] = []  # they own the compiled code
        self._addresses: dict[tuple, int] = {}  # of the compiled code, by the types of the arguments

    def __call__(self, blocks: int, *arguments: np.ndarray | float) -> None:
        """Run blocks 0, ..., blocks - 1, in parallel on as many threads as `threads` allows."""
        kinds, fields, size = _pack(arguments)
        code = self._addresses.get(kinds) or self._compile(kinds, arguments)
        address, _ = fields.buffer_info()  # `fields` and `arguments` are alive until the loop returns
        if blocks == 1 or size < FEW_BYTES or numba_threads.are_lost:
            _loop(False)(code, blocks, address)
            return
        with _one_at_a_time:
            _loop(True)(code, blocks, address)

    def _compile(self, kinds, arguments) -> int:
        unpacked = types.Tuple([_type_of(a) for a in arguments])
        signature = types.void(types.int64, types.CPointer(unpacked))
        callback = CFunc(self.function, (signature.args, signature.return_type), locals={}, options=OPTIONS)
        with _announce_compilation(), _enable_jit():
            compile_with_cache(callback, self.function, callback.compile)
        self._callbacks.append(callback)
        address: Any = callback.address
        self._addresses[kinds] = address
        return address


_one_at_a_time = threading.Lock()  # not every threading layer of Numba can run two parallel loops


def _forget_other_threads():
    """In a forked process: another thread may have held the lock."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()


after_fork(_forget_other_threads)


@functools.cache
def _sources_stamp() -> str:
    """A digest of this folder's sources: a change in any of them makes Numba compile all kernels again."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]


def jit(function: Callable) -> Callable:
    """Compile a helper of kernels."""
    with _enable_jit():
        return numba.njit(**OPTIONS)(function)


@contextlib.contextmanager
def _enable_jit():
    """Compile kernels under NUMBA_DISABLE_JIT too, which users set to debug their simulators."""
    before = _config.DISABLE_JIT
    _config.DISABLE_JIT = 0
    try:
        yield
    finally:
        _config.DISABLE_JIT = before


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let kernels use `number` threads, at most the number that Numba was started with, inside a block.

    In a process that was forked from one with such threads they use one thread, and compute the same bits. Meanwhile
    NumPy neither warns nor raises, whatever `numpy.seterr` says, because results are checked where it matters.
    """
    with np.errstate(all="ignore"):
        if numba_threads.are_lost:
            yield
            return
        _limit_spinning()
        before = numba.get_num_threads()
        numba.set_num_threads(min(number, _config.NUMBA_NUM_THREADS))
        try:
            yield
        finally:
            numba.set_num_threads(before)


def blocks_of(items: int, size: int) -> int:
    """The number of blocks of `size` that cover `items`."""
    return -(-items // size)


def _type_of(argument):
    if isinstance(argument, np.ndarray):
        return types.Array(DTYPES[argument.dtype], argument.ndim, "C")
    return types.float64 if isinstance(argument, float) else types.int64


def _pack(arguments) -> tuple[tuple, array.array, int]:
    """What identifies the arguments' types; the arguments as Numba lays out a tuple of them; the bytes of all arrays.

    The layout is of 8-byte fields, seven or more for an array. A step of training packs some three hundred arrays.
    """
    kinds: list[Any] = []
    fields: list[Any] = []
    size = 0
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            if not argument.flags.c_contiguous:
                raise ValueError("kernels take C-contiguous arrays")
            shape = argument.shape
            kinds += argument.dtype, len(shape)
            data = _address_at(id(argument) + object.__basicsize__).value
            fields += (0, 0, argument.size, argument.itemsize, data, *shape, *argument.strides)
            size += argument.nbytes
        elif isinstance(argument, float):
            kinds.append(float)
            fields += struct.unpack("q", struct.pack("d", argument))
        else:
            kinds.append(int)
            fields.append(argument)
    return tuple(kinds), array.array("q", fields), size


# Where the data of an array begins is the field after the object's head in NumPy's C struct: ten times sooner to read.
_address_at = ctypes.c_void_p.from_address


class _CompilationListener(event.Listener):
    has_announced = False

    def on_start(self, event):
        if not _CompilationListener.has_announced:
            _CompilationListener.has_announced = True
            logger.info("compiling kernels: this takes some seconds, once on this machine; later runs load them")

    def on_end(self, event):
        pass


def _announce_compilation():
    return event.install_listener("numba:run_pass", _CompilationListener())


@intrinsic
def _call(typing_context, address, block, arguments):
    """Call the C function ``void (int64 block, void *arguments)`` at an address."""

    def generate(context, builder, signature, values):
        int64 = ir.IntType(64)
        function_type = ir.FunctionType(ir.VoidType(), [int64, int64])
        builder.call(builder.inttoptr(values[0], function_type.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _in_parallel(address, blocks, arguments):
    for block in numba.prange(blocks):
        _call(address, block, arguments)


def _one_by_one(address, blocks, arguments):
    for block in range(blocks):
        _call(address, block, arguments)


def _limit_spinning():
    """Keep GNU OpenMP's threads from spinning for milliseconds after a loop: simulators need the cores.

    It reads the variable when it is loaded: when Numba is first asked for its threads, or compiles a parallel loop.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


@functools.cache
def _loop(parallel: bool):
    """The compiled loop over blocks ``(address, blocks, arguments)``."""
    _limit_spinning()
    signature = types.void(types.int64, types.int64, types.int64)
    function = _in_parallel if parallel else _one_by_one
    with _announce_compilation(), _enable_jit():
        loop = numba.njit(parallel=parallel, nogil=True, **OPTIONS)(function)
        compile_with_cache(loop, function, lambda: loop.compile(signature))
        loop.disable_compile()
    return loop
