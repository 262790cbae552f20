"""Vector operations that LLVM's loop vectoriser does not find by itself, as numba intrinsics.

They are written as LLVM vectors of fixed length and lowered to whatever registers the processor has (AVX-512, AVX2,
NEON, ...): sums and minima stay in registers over a whole inner loop. All take contiguous arrays and first indices: no
bounds are checked.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "FAR",
    "FLOATS",
    "MOST_CODES",
    "add_hamming4",
    "add_hamming8",
    "add_hamming16",
    "lowest8",
    "lowest16",
    "splat",
]

FLOATS = 8  # rows of floats are padded to a multiple of this number
FAR = 1e30  # what stands in the padding: more than any cost
MOST_CODES = 31  # codes that a counter of one byte can take: 31 * 8 bits

_BYTE, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _pointer(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def splat(builder, value, vector):
    """A vector of copies of a value, in an intrinsic."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    zeros = ir.Constant(ir.VectorType(_INT, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _constant(vector, value):
    return ir.Constant(vector, [value] * vector.count)


def _hamming(lanes):
    """Intrinsic that adds scaled Hamming distances for ``lanes`` neighbouring displacements."""
    longs, bytes_ = ir.VectorType(_LONG, lanes), ir.VectorType(_BYTE, 8 * lanes)
    floats = ir.VectorType(_FLOAT, lanes)

    def add_hamming(typingctx, target, first, codes, starts, shift, own, begin, end, scale):
        signature = types.void(
            target, types.intp, codes, starts, types.intp, own, types.intp, types.intp, types.float32
        )

        def codegen(context, builder, signature, args):
            target, first, codes, starts, shift, own, begin, end, scale = args
            kinds = signature.args
            rows = context.make_array(kinds[3])(context, builder, starts).data
            fixed = context.make_array(kinds[5])(context, builder, own).data
            counts = cgutils.alloca_once_value(builder, _constant(bytes_, 0))
            popcount = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(bytes_, [bytes_]), f"llvm.ctpop.v{8 * lanes}i8"
            )
            with cgutils.for_range_slice(builder, begin, end, ir.Constant(begin.type, 1), begin.type) as (v, _):
                row = builder.add(builder.load(builder.gep(rows, [v])), shift)
                other = builder.load(_pointer(context, builder, kinds[2], codes, row, longs), align=8)
                different = builder.xor(splat(builder, builder.load(builder.gep(fixed, [v])), longs), other)
                bits = builder.call(popcount, [builder.bitcast(different, bytes_)])
                builder.store(builder.add(builder.load(counts), bits), counts)
            # The eight bytes of each code are added up, in pairs, fours and eights.
            total = builder.bitcast(builder.load(counts), longs)
            even = _constant(longs, 0x00FF00FF00FF00FF)
            total = builder.add(builder.and_(total, even), builder.and_(builder.lshr(total, _constant(longs, 8)), even))
            for distance in (16, 32):
                total = builder.add(total, builder.lshr(total, _constant(longs, distance)))
            total = builder.trunc(builder.and_(total, _constant(longs, 0xFFFF)), ir.VectorType(_INT, lanes))
            amount = builder.fmul(builder.sitofp(total, floats), splat(builder, scale, floats))
            where = _pointer(context, builder, kinds[0], target, first, floats)
            builder.store(builder.fadd(builder.load(where, align=4), amount), where, align=4)
            return context.get_dummy_value()

        return signature, codegen

    add_hamming.__doc__ = f"""For i < {lanes}: target[first + i] += scale * sum of popcount(own[v] ^ codes[starts[v] +
    shift + i]) over begin <= v < end, at most {MOST_CODES} of them; float32, and uint64 codes."""
    add_hamming.__name__ = f"add_hamming{lanes}"
    return intrinsic(add_hamming)


def _lowest(lanes):
    """Intrinsic for the lower envelope of shifted rows."""
    vector = ir.VectorType(_FLOAT, lanes)

    def lowest(typingctx, target, first, source, begin, stride, penalties, from_, count):
        signature = types.void(target, types.intp, source, types.intp, types.intp, penalties, types.intp, types.intp)

        def codegen(context, builder, signature, args):
            target, first, source, begin, stride, penalties, from_, count = args
            kinds = signature.args
            prices = context.make_array(kinds[5])(context, builder, penalties).data
            best = cgutils.alloca_once_value(builder, _constant(vector, FAR))
            with cgutils.for_range(builder, count) as loop:
                position = builder.add(begin, builder.mul(loop.index, stride))
                row = builder.load(_pointer(context, builder, kinds[2], source, position, vector), align=4)
                price = builder.load(builder.gep(prices, [builder.add(from_, loop.index)]))
                candidate = builder.fadd(row, splat(builder, price, vector))
                present = builder.load(best)
                smaller = builder.fcmp_ordered("<", candidate, present)
                builder.store(builder.select(smaller, candidate, present), best)
            where = _pointer(context, builder, kinds[0], target, first, vector)
            builder.store(builder.load(best), where, align=4)
            return context.get_dummy_value()

        return signature, codegen

    lowest.__doc__ = f"""For i < {lanes}: target[first + i] = minimum over 0 <= t < count of source[begin + t * stride +
    i] + penalties[from_ + t]; arrays of float32."""
    lowest.__name__ = f"lowest{lanes}"
    return intrinsic(lowest)


add_hamming4, add_hamming8, add_hamming16 = (_hamming(lanes) for lanes in (4, 8, 16))
lowest8, lowest16 = (_lowest(lanes) for lanes in (8, 16))
