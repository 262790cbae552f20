"""Vector operations that LLVM's loop vectoriser does not find by itself, as numba intrinsics.

They are written as LLVM vectors of fixed length and lowered to whatever registers the processor has (AVX-512, AVX2,
NEON, ...). All take arrays and first indices: no bounds are checked.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["CODES", "FLOATS", "add_hamming", "lower_by"]

CODES = 8  # 64-bit codes handled at once
FLOATS = 16  # 32-bit floats handled at once


def _pointer(context, builder, array_type, array, index, vector):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _splat(builder, value, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


@intrinsic
def add_hamming(typingctx, sums, first_sum, codes, first_code, code):
    """sums[first_sum + i] += popcount(code ^ codes[first_code + i]) for i < CODES; arrays of uint64."""
    signature = types.void(sums, types.intp, codes, types.intp, types.uint64)

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(64), CODES)
        target = _pointer(context, builder, signature.args[0], args[0], args[1], vector)
        source = _pointer(context, builder, signature.args[2], args[2], args[3], vector)
        different = builder.xor(_splat(builder, args[4], vector), builder.load(source, align=8))
        count = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector]), f"llvm.ctpop.v{CODES}i64"
        )
        total = builder.add(builder.load(target, align=8), builder.call(count, [different]))
        builder.store(total, target, align=8)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def lower_by(typingctx, target, first_target, source, first_source, penalty):
    """target[i] = min(target[i], source[i] + penalty) for FLOATS elements from the first indices; arrays of float32."""
    signature = types.void(target, types.intp, source, types.intp, types.float32)

    def codegen(context, builder, signature, args):
        vector = ir.VectorType(ir.FloatType(), FLOATS)
        to = _pointer(context, builder, signature.args[0], args[0], args[1], vector)
        of = _pointer(context, builder, signature.args[2], args[2], args[3], vector)
        candidate = builder.fadd(builder.load(of, align=4), _splat(builder, args[4], vector))
        present = builder.load(to, align=4)
        smaller = builder.fcmp_ordered("<", candidate, present)
        builder.store(builder.select(smaller, candidate, present), to, align=4)
        return context.get_dummy_value()

    return signature, codegen
