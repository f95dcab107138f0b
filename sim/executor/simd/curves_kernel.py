# mypy: disable-error-code="no-untyped-def,no-untyped-call"
"""Sigmoid, silu, tanh and gelu of vectors: polynomials in the registers, a few units in the last place from exact.

Everything rests on exp(y) for y <= 0: y = n ln 2 + r with n whole and |r| <= ln 2 / 2 (ln 2 in two parts, so that r is
exact to the last place: Cody and Waite, Software Manual for the Elementary Functions, 1980); expm1(r) is its Taylor series
to r^7 / 7!, whose remainder is below r * 0.35^7 / 8! = 1.6e-8 r; and 2^n is made from its bits.
"""

import math

from llvmlite import ir
from numba.extending import intrinsic

from .lanes_kernel import _INDICES, _ONE, _first, _numbers
from .vectors_kernel import _VECTOR, LANES, _build, _fma, _function

_LOG2_E = 1 / math.log(2)
#: ln 2 with 8 trailing zero bits, so that a whole number times it is exact, and the rest.
_LN2_HIGH = 0.693145751953125
_LN2_LOW = math.log(2) - _LN2_HIGH
#: Adding it leaves a number's whole part in the lowest bits.
_ROUNDER = 1.5 * 2**23
_ROUNDER_BITS = 0x4B400000
#: Below it exp is less than the smallest normal number: zero.
_LOWEST = -87.3
#: 1 - (normal distribution function)(u) = exp(-u^2 / 2) * w * polynomial(0.4 u w) with w = 1 / (1 + 0.4 u), for 0 <= u <= 14:
#: least squares in relative error at 2000 Chebyshev points, off by at most 7e-9 (SciPy's erfcx as reference).
_TAIL_SCALE = 0.4
_TAIL_END = 14.0
_TAIL = (
    0.500000002, -0.497356138, 0.067806335, 0.117330921, 0.0178647822, -0.0398469481,
    0.00172931833, -0.0373285465, 0.0244280481, 0.0161914123, -0.0112500247,
)  # fmt: skip


def _constant(value):
    return ir.Constant(_VECTOR, [value] * LANES)


def _horner(builder, x, coefficients):
    """Polynomial of x, lowest coefficient first."""
    total = _constant(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = _fma(builder, total, x, _constant(coefficient))
    return total


def _absolute(builder, x):
    return builder.call(_function(builder, f"llvm.fabs.v{LANES}f32", _VECTOR, [_VECTOR]), [x])


def _negative(builder, x):
    return builder.fcmp_ordered("<", x, _constant(0.0))


def _powers(builder, y):
    """For y <= 0: s = 2^n (0 where exp(y) is no normal number) and p with exp(y) = s + s p. A NaN stays in p."""
    tiny = builder.fcmp_ordered("<", y, _constant(_LOWEST))
    y = builder.select(tiny, _constant(_LOWEST), y)
    shifted = _fma(builder, y, _constant(_LOG2_E), _constant(_ROUNDER))
    n = builder.fsub(shifted, _constant(_ROUNDER))
    r = _fma(builder, n, _constant(-_LN2_LOW), _fma(builder, n, _constant(-_LN2_HIGH), y))
    series = _horner(builder, r, [1 / math.factorial(k) for k in range(2, 8)])
    p = _fma(builder, builder.fmul(r, r), series, r)
    exponent = builder.add(builder.bitcast(shifted, _INDICES), _numbers([127 - _ROUNDER_BITS] * LANES))
    s = builder.bitcast(builder.shl(exponent, _numbers([23] * LANES)), _VECTOR)
    return builder.select(tiny, _constant(0.0), s), p


def _sigmoid(builder, x):
    """z / (1 + z) with z = exp(-|x|), or 1 / (1 + z) for x >= 0."""
    s, p = _powers(builder, builder.fneg(_absolute(builder, x)))
    z = _fma(builder, s, p, s)
    top = builder.select(_negative(builder, x), z, _constant(1.0))
    return builder.fdiv(top, builder.fadd(_constant(1.0), z))


def _silu(builder, x):
    return builder.fmul(x, _sigmoid(builder, x))


def _tanh(builder, x):
    """-m / (2 + m) with m = expm1(-2 |x|) = (s - 1) + s p, which cancels nowhere; the sign of x."""
    size = _absolute(builder, x)
    s, p = _powers(builder, builder.fmul(size, _constant(-2.0)))
    m = _fma(builder, s, p, builder.fsub(s, _constant(1.0)))
    found = builder.fdiv(builder.fneg(m), builder.fadd(_constant(2.0), m))
    sign = _function(builder, f"llvm.copysign.v{LANES}f32", _VECTOR, [_VECTOR, _VECTOR])
    return builder.call(sign, [found, x])


def _gelu(builder, x):
    """x times the normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415), whose tail is h for |x|."""
    size = _absolute(builder, x)
    end = _constant(_TAIL_END)
    u = builder.select(builder.fcmp_ordered(">", size, end), end, size)
    half = builder.fmul(u, _constant(0.5))
    square = builder.fmul(half, u)
    rest = _fma(builder, half, u, builder.fneg(square))  # what rounding the square lost
    s, p = _powers(builder, builder.fneg(square))
    bell = _fma(builder, s, p, s)
    bell = _fma(builder, builder.fneg(bell), rest, bell)
    scaled = builder.fmul(u, _constant(_TAIL_SCALE))
    w = builder.fdiv(_constant(1.0), builder.fadd(_constant(1.0), scaled))
    h = builder.fmul(builder.fmul(bell, w), _horner(builder, builder.fmul(scaled, w), _TAIL))
    part = builder.select(_negative(builder, x), h, builder.fsub(_constant(1.0), h))
    return builder.fmul(x, part)


def _curve(formula):
    @intrinsic
    def curve(context, vector):
        def code(context, builder, signature, args):
            return _build(builder, _ONE, [formula(builder, _first(builder, args[0]))])

        return _ONE(_ONE), code

    return curve


#: One vector each.
sigmoid = _curve(_sigmoid)
silu = _curve(_silu)
tanh = _curve(_tanh)
gelu = _curve(_gelu)
