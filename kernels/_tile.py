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

_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)


def panel_width(shape: tuple[int, int], itemsize: int) -> int:
    """The number of columns of a tile of this shape."""
    return shape[1] * VECTOR_BYTES // itemsize


def _tile(rows: int, vectors: int):
    @intrinsic
    def tile(typing_context, sums, table, depth, step, panel):
        """Add a product to the tile ``sums`` (rows, width).

        ``sums[r] += sum_sk a[s, r, k] * panel[s * depth + k]`` with k below `depth`: the factor ``a[s, r, k]`` is at
        the address ``table[s, r] + k * step``, in bytes; panel (segments * depth, width).
        """
        signature = types.void(sums, table, types.int64, types.int64, panel)

        def generate(context, builder, signature, arguments):
            views = [
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(signature.args, arguments, strict=True)
                if isinstance(kind, types.Array)
            ]
            sums_at, table_at, panel_at = (builder.ptrtoint(view.data, _INT64) for view in views)
            segments = builder.extract_value(views[1].shape, 0)
            _generate(
                builder, rows, vectors, signature.args[0].dtype, sums_at, table_at, segments, *arguments[2:4], panel_at
            )
            return context.get_dummy_value()

        return signature, generate

    return tile


def _generate(builder, rows, vectors, dtype, sums_at, table_at, segments, depth, step, panel_at):
    itemsize = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // itemsize
    scalar = ir.FloatType() if itemsize == 4 else ir.DoubleType()
    vector = ir.VectorType(scalar, lanes)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f{dtype.bitwidth}"
    )

    def plus(address, offset):
        return builder.add(address, _INT64(offset) if isinstance(offset, int) else offset)

    def pointer(address, kind):
        return builder.inttoptr(address, kind.as_pointer())

    def load(address, kind):
        return builder.load(pointer(address, kind), align=kind.width // 8 if kind is _INT64 else itemsize)

    def variable(kind, value):
        slot = cgutils.alloca_once(builder, kind)
        builder.store(value, slot)
        return slot

    def spread(factor):
        undefined = vector(ir.Undefined)
        first = builder.insert_element(undefined, factor, _INT32(0))
        return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))

    def multiply_add(a, b, c):
        return builder.call(fma, [a, b, c]) if _HAS_FMA else builder.fadd(builder.fmul(a, b), c)

    places = [[plus(sums_at, (r * vectors + v) * VECTOR_BYTES) for v in range(vectors)] for r in range(rows)]
    tile = [[variable(vector, load(place, vector)) for place in row] for row in places]  # LLVM makes them registers
    panel_row = variable(_INT64, panel_at)
    with cgutils.for_range(builder, segments) as segment:
        addresses = plus(table_at, builder.mul(segment.index, _INT64(8 * rows)))
        factors_at = [load(plus(addresses, 8 * r), _INT64) for r in range(rows)]
        offset = variable(_INT64, _INT64(0))
        with cgutils.for_range(builder, depth):
            row_at, k = builder.load(panel_row), builder.load(offset)
            columns = [load(plus(row_at, v * VECTOR_BYTES), vector) for v in range(vectors)]
            for factor_at, sums in zip(factors_at, tile, strict=True):
                factor = spread(load(plus(factor_at, k), scalar))
                for column, total in zip(columns, sums, strict=True):
                    builder.store(multiply_add(factor, column, builder.load(total)), total)
            builder.store(plus(row_at, vectors * VECTOR_BYTES), panel_row)
            builder.store(plus(k, step), offset)
    for row, sums in zip(places, tile, strict=True):
        for place, total in zip(row, sums, strict=True):
            builder.store(builder.load(total), pointer(place, vector), align=itemsize)


wide_tile = _tile(*WIDE)
narrow_tile = _tile(*NARROW)
