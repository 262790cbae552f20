"""Arithmetic shared by the compiled kernels, written so that the compiler turns loops of it into vector code."""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from itk_pdd.kernels.vectors import splat

__all__ = ["LANES", "add_scaled", "average_of_five", "exponential", "load", "lowest_of_three", "repeat", "store"]

LANES = 8
"""Numbers that :func:`lowest_of_three` and :func:`average_of_five` take at a time."""


@intrinsic
def load(typingctx, array, index):
    """``array[index]`` of a contiguous 1-D array, for an index that is not negative.

    Numba's own indexing counts negative indices from the end, which makes the compiler gather single values wherever it
    cannot prove the sign.
    """

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]], inbounds=True))

    return array.dtype(array, types.intp), generate


@intrinsic
def store(typingctx, array, index, value):
    """``array[index] = value`` for a contiguous 1-D array and an index that is not negative."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.gep(data, [arguments[1]], inbounds=True))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


def _vectors(context, builder, signature, arguments, count):
    """The vectors of ``LANES`` numbers from the given places of the first ``count`` arrays on."""
    found = []
    for k in range(count):
        data = context.make_array(signature.args[2 * k])(context, builder, arguments[2 * k]).data
        vector = ir.VectorType(data.type.pointee, LANES)
        place = builder.bitcast(builder.gep(data, [arguments[2 * k + 1]], inbounds=True), vector.as_pointer())
        # The places are those of numbers, not of vectors.
        found.append((place, vector, signature.args[2 * k].dtype.bitwidth // 8))
    return found


@intrinsic
def lowest_of_three(typingctx, a, ia, b, ib, c, ic, out, io):
    """``out = min(a, b, c)`` for ``LANES`` numbers from the given places of contiguous 1-D arrays on.

    All are read before any is written, which the compiler could not know of a loop: whether the arrays overlap it would
    ask before each, and shorter ones it would leave to single numbers.
    """

    def generate(context, builder, signature, arguments):
        *sources, (target, _, align) = _vectors(context, builder, signature, arguments, 4)
        lowest = None
        for place, _, _ in sources:
            value = builder.load(place, align=align)
            if lowest is None:
                lowest = value
            else:
                lowest = builder.select(builder.fcmp_ordered("<", value, lowest), value, lowest)
        builder.store(lowest, target, align=align)
        return context.get_dummy_value()

    places = (types.intp, types.intp, types.intp, types.intp)
    kinds = [kind for pair in zip((a, b, c, out), places, strict=True) for kind in pair]
    return types.void(*kinds), generate


@intrinsic
def add_scaled(typingctx, a, ia, b, ib, factor, out, io):
    """``out = a + factor b``, as :func:`lowest_of_three`; ``b`` is not read where the factor is zero."""

    def generate(context, builder, signature, arguments):
        arrays = [k for k in range(7) if k != 4]
        kept = signature.return_type(*[signature.args[k] for k in arrays])
        places = _vectors(context, builder, kept, [arguments[k] for k in arrays], 3)
        (first, vector, align), (second, _, _), (target, _, _) = places
        value = builder.load(first, align=align)
        nothing = ir.Constant(vector.element, 0.0)
        used = builder.fcmp_unordered("!=", arguments[4], nothing)
        with builder.if_else(used) as (then, otherwise):
            with then:
                more = builder.load(second, align=align)
                total = builder.fadd(value, builder.fmul(splat(builder, arguments[4], vector), more))
                where_used = builder.block
            with otherwise:
                where_not = builder.block
        result = builder.phi(vector)
        result.add_incoming(total, where_used)
        result.add_incoming(value, where_not)
        builder.store(result, target, align=align)
        return context.get_dummy_value()

    return types.void(a, types.intp, b, types.intp, a.dtype, out, types.intp), generate


@intrinsic
def repeat(typingctx, value, out, io):
    """``out = value`` for ``LANES`` numbers."""

    def generate(context, builder, signature, arguments):
        kept = signature.return_type(*signature.args[1:])
        ((target, vector, align),) = _vectors(context, builder, kept, arguments[1:], 1)
        builder.store(splat(builder, arguments[0], vector), target, align=align)
        return context.get_dummy_value()

    return types.void(out.dtype, out, types.intp), generate


@intrinsic
def average_of_five(typingctx, a, ia, b, ib, c, ic, d, id_, e, ie, out, io, ninth):
    """``out = ninth * (a + 2 b + 3 c + 2 d + e)``, as :func:`lowest_of_three`."""

    def generate(context, builder, signature, arguments):
        *sources, (target, vector, align) = _vectors(context, builder, signature, arguments, 6)
        first, second, third, fourth, fifth = (builder.load(place, align=align) for place, _, _ in sources)
        near = builder.fadd(second, fourth)
        total = builder.fadd(builder.fadd(first, fifth), builder.fadd(near, near))
        three = ir.Constant(vector, [3.0] * LANES)
        total = builder.fadd(total, builder.fmul(three, third))
        builder.store(builder.fmul(total, splat(builder, arguments[-1], vector)), target, align=align)
        return context.get_dummy_value()

    places = (types.intp,) * 6
    kinds = [kind for pair in zip((a, b, c, d, e, out), places, strict=True) for kind in pair]
    return types.void(*kinds, out.dtype), generate


@intrinsic
def _power_of_two(typingctx, exponent):
    """``2.0 ** exponent`` for a 32-bit integer, by writing the bits of the floating-point number."""

    def generate(context, builder, signature, arguments):
        integer = ir.IntType(32)
        biased = builder.add(arguments[0], ir.Constant(integer, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(integer, 23)), ir.FloatType())

    return types.float32(types.int32), generate


def exponential(x):
    """``exp(x)`` for x <= 0; in single precision to 2e-7 (relative), and 0 below -87."""
    raise NotImplementedError("only inside compiled functions")


@overload(exponential)
def _exponential(x):
    if x != types.float32:
        return lambda x: math.exp(x)

    # exp(x) = 2^n exp(r) with |r| <= ln(2) / 2, the natural logarithm of 2 in two parts so that r is exact;
    # exp(r) by its Taylor series to the 6th power, which errs by less than 1.3e-7 there.
    log2e, high, low = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
    half, one = np.float32(0.5), np.float32(1)
    c3, c4, c5, c6 = np.float32(1 / 6), np.float32(1 / 24), np.float32(1 / 120), np.float32(1 / 720)
    least = np.float32(-87)

    def single(x):
        bounded = least if x < least else x
        # Truncation rounds to nearest here because the argument is not above 0.
        n = numba.int32(bounded * log2e - half)
        f = numba.float32(n)
        r = bounded - f * high - f * low
        series = one + r * (one + r * (half + r * (c3 + r * (c4 + r * (c5 + r * c6)))))
        return np.float32(0) if x < least else series * _power_of_two(n)

    return single
