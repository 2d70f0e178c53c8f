"""The matrix-product micro-kernel: a tile of sums held in vector registers, written as LLVM vectors.

Numba compiles loops over arrays well, but keeps no tile of sums in registers. Every sum here is one chain of fused
multiply-adds in the order of its terms, so its bits depend neither on its place in a tile nor on the width of vectors.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

_TRIPLE, _, _FEATURES = cpu_target.target_context.codegen().magic_tuple()
_HAS_FMA = "+fma" in _FEATURES or _TRIPLE.startswith(("aarch64", "arm64"))
VECTOR_BYTES = 64 if "+avx512f" in _FEATURES else 32 if "+avx2" in _FEATURES else 16
# (rows, vectors) of a tile: its sums, a row of the panel and one factor fill the 32 or 16 vector registers.
WIDE = (6, 4) if VECTOR_BYTES == 64 else (6, 2)
NARROW = (12, 2) if VECTOR_BYTES == 64 else (6, 2)
TERMS_PER_SUM = 1024  # terms of a sum of any length that are added up in the network's type; the rest is float64
ROW = 5 if VECTOR_BYTES == 64 else 10  # vectors of a row of sums: enough chains to hide how long one addition takes

_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)


def panel_width(shape: tuple[int, int], itemsize: int) -> int:
    """The number of columns of a tile of this shape."""
    return shape[1] * VECTOR_BYTES // itemsize


class _Code:
    """Writes LLVM instructions on numbers and vectors of one type; addresses and offsets are int64, in bytes."""

    def __init__(self, builder, dtype):
        self.builder = builder
        self.itemsize = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.itemsize
        self.scalar = ir.FloatType() if self.itemsize == 4 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        name = f"llvm.fma.v{self.lanes}f{dtype.bitwidth}"
        self.fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(self.vector, [self.vector] * 3), name)

    def plus(self, address, offset):
        return self.builder.add(address, _INT64(offset) if isinstance(offset, int) else offset)

    def times(self, number, factor):
        return self.builder.mul(number, _INT64(factor) if isinstance(factor, int) else factor)

    def load(self, address, kind):
        align = 8 if kind is _INT64 else self.itemsize
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value, address):
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=self.itemsize)

    def variable(self, value):
        """A place for a value that changes; LLVM makes it a register."""
        slot = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, slot)
        return slot

    def load_row(self, address, vectors):
        return [self.load(self.plus(address, v * VECTOR_BYTES), self.vector) for v in range(vectors)]

    def add_product(self, factor, row, sums):
        """Add a number times a row of vectors to variables."""
        undefined = self.vector(ir.Undefined)
        first = self.builder.insert_element(undefined, factor, _INT32(0))
        zeros = ir.Constant(ir.VectorType(_INT32, self.lanes), [0] * self.lanes)
        factors = self.builder.shuffle_vector(first, undefined, zeros)
        for vector, total in zip(row, sums, strict=True):
            before = self.builder.load(total)
            if _HAS_FMA:
                after = self.builder.call(self.fma, [factors, vector, before])
            else:
                after = self.builder.fadd(self.builder.fmul(factors, vector), before)
            self.builder.store(after, total)


def _addresses(context, builder, signature, arguments):
    """The arguments, with the address of its data for each array."""
    pairs = zip(signature.args, arguments, strict=True)
    return [
        builder.ptrtoint(context.make_array(kind)(context, builder, value).data, _INT64)
        if isinstance(kind, types.Array)
        else value
        for kind, value in pairs
    ]


def _tile(rows: int, vectors: int):
    @intrinsic
    def tile(typing_context, sums, table, segments, depth, step, panel):
        """Add a product to the tile ``sums`` (rows, width).

        ``sums[r] += sum_sk a[s, r, k] * panel[s * depth + k]`` with s below `segments` and k below `depth`: the factor
        ``a[s, r, k]`` is at the address ``table[s, r] + k * step``, in bytes; panel (segments * depth, width).
        """
        signature = types.void(sums, table, types.int64, types.int64, types.int64, panel)

        def generate(context, builder, signature, arguments):
            sums_at, table_at, segments, depth, step, panel_at = _addresses(context, builder, signature, arguments)
            code = _Code(builder, signature.args[0].dtype)
            places = [code.plus(sums_at, r * vectors * VECTOR_BYTES) for r in range(rows)]
            tile = [[code.variable(vector) for vector in code.load_row(place, vectors)] for place in places]
            panel_row = code.variable(panel_at)
            with cgutils.for_range(builder, segments) as segment:
                addresses = code.plus(table_at, code.times(segment.index, 8 * rows))
                factors_at = [code.load(code.plus(addresses, 8 * r), _INT64) for r in range(rows)]
                offset = code.variable(_INT64(0))
                with cgutils.for_range(builder, depth):
                    row_at, k = builder.load(panel_row), builder.load(offset)
                    row = code.load_row(row_at, vectors)
                    for factor_at, sums in zip(factors_at, tile, strict=True):
                        code.add_product(code.load(code.plus(factor_at, k), code.scalar), row, sums)
                    builder.store(code.plus(row_at, vectors * VECTOR_BYTES), panel_row)
                    builder.store(code.plus(k, step), offset)
            _store_rows(code, places, tile)
            return context.get_dummy_value()

        return signature, generate

    return tile


def _store_rows(code, places, rows):
    for place, row in zip(places, rows, strict=True):
        for v, total in enumerate(row):
            code.store(code.builder.load(total), code.plus(place, v * VECTOR_BYTES))


wide_tile = _tile(*WIDE)
narrow_tile = _tile(*NARROW)


@intrinsic
def add_rows(typing_context, sums, factors, rows, number, matrix, left, row_bytes):
    """Add ``factors[i] * matrix[rows[i], left:][:width]`` to ``sums[left:][:width]`` for i = 0, ..., number - 1.

    The width is that of `ROW` vectors; row_bytes are those of a row of the matrix.
    """
    signature = types.void(sums, factors, rows, types.int64, matrix, types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        sums_at, factors_at, rows_at, number, matrix_at, left, row_bytes = _addresses(
            context, builder, signature, arguments
        )
        code = _Code(builder, signature.args[0].dtype)
        place, matrix_at = (code.plus(at, code.times(left, code.itemsize)) for at in (sums_at, matrix_at))
        sums = [code.variable(vector) for vector in code.load_row(place, ROW)]
        with cgutils.for_range(builder, number) as entry:
            factor = code.load(code.plus(factors_at, code.times(entry.index, code.itemsize)), code.scalar)
            row = code.load(code.plus(rows_at, code.times(entry.index, 8)), _INT64)
            row_at = code.plus(matrix_at, code.times(row, row_bytes))
            code.add_product(factor, code.load_row(row_at, ROW), sums)
        _store_rows(code, [place], [sums])
        return context.get_dummy_value()

    return signature, generate
