"""Arithmetic shared by the compiled kernels, written so that the compiler turns loops of it into vector code."""

from __future__ import annotations

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

__all__ = ["exponential", "load", "store"]


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
