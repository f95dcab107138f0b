"""Weights in SmartDeal form: power-of-two coefficient codes, tiny bases, and per coefficient how many levels keep it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..nesting import MAX_LEVELS, NestedWeights
from .slicing import Slicing

#: Bits of a stored coefficient: a sign and three bits of exponent (SmartExchange, 4-bit coefficients).
COEFFICIENT_BITS = 4
#: Bits of a stored basis element (SmartExchange).
BASIS_BITS = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class BasisWeights:
    """One layer's weights as Ce B, at every level.

    Parameters
    ----------
    codes : int8 (matrices, rows, columns); 0 = zero coefficient, else sign * (p - lowest + 1) for the magnitude 2^p.
    lowest : exponent p that the code +-1 stands for.
    bases : float32 (1 or levels, matrices, columns, columns): one basis shared by all levels, or one fitted per level.
    keep : uint8, (matrices, rows) if rows are kept or dropped whole, else the shape of ``codes``: how many levels,
        counted from the densest, retain the coefficient. Level l uses the coefficients with keep > l.
    levels : number of levels.
    slicing : how the matrices make up the layer's weights.

    Raises
    ------
    InputError
        if shapes disagree, ``keep`` exceeds ``levels``, codes need more than 127 exponents, or a basis is not finite.
    """

    codes: NDArray[np.int8]
    lowest: int
    bases: NDArray[np.float32]
    keep: NDArray[np.uint8]
    levels: int
    slicing: Slicing
    name: str = "weights"

    def __post_init__(self) -> None:
        s = self.slicing
        shape = (s.matrices, s.rows, s.columns)
        checks = (
            (1 <= self.levels <= MAX_LEVELS, f"{self.levels} levels; allowed are 1 to {MAX_LEVELS}"),
            (self.codes.shape == shape, f"codes have shape {self.codes.shape}, the slicing gives {shape}"),
            (
                self.keep.shape in (shape, shape[:2]),
                f"keep has shape {self.keep.shape}, must be {shape} or {shape[:2]}",
            ),
            (
                self.bases.shape in {(n, s.matrices, s.columns, s.columns) for n in (1, self.levels)},
                f"bases have shape {self.bases.shape}, must be (1 or {self.levels}, {s.matrices}, {s.columns}, {s.columns})",
            ),
            (int(self.keep.max(initial=0)) <= self.levels, f"keep exceeds the {self.levels} levels"),
            (bool(np.isfinite(self.bases).all()), "a basis contains NaN or infinity"),
        )
        problems = [f"{self.name}: {text}" for fine, text in checks if not fine]
        if problems:
            raise InputError(problems)

    @property
    def by_row(self) -> bool:
        """True if levels keep or drop whole coefficient rows (vector-wise sparsity)."""
        return self.keep.ndim == 2

    @property
    def shared(self) -> bool:
        """True if one basis per matrix serves all levels."""
        return len(self.bases) == 1

    def kept(self, level: int) -> NDArray[np.bool_]:
        """Non-zero coefficients that ``level`` retains, bool (matrices, rows, columns)."""
        if not 0 <= level < self.levels:
            raise InputError(f"{self.name}: level {level} does not exist; levels are 0 to {self.levels - 1}")
        keep = self.keep[..., None] if self.by_row else self.keep
        return np.asarray((keep > level) & (self.codes != 0))

    @property
    def nonzeros(self) -> NDArray[np.int64]:
        """Non-zero coefficients per level, shape (levels,)."""
        return np.array([np.count_nonzero(self.kept(level)) for level in range(self.levels)], dtype=np.int64)

    @property
    def nonzero_rows(self) -> NDArray[np.int64]:
        """Coefficient rows with a non-zero per level, shape (levels,)."""
        return np.array([np.count_nonzero(self.kept(x).any(axis=2)) for x in range(self.levels)], dtype=np.int64)

    @property
    def exponents(self) -> int:
        """Different exponents that the codes span (largest - lowest + 1); 0 if all coefficients are zero."""
        return int(np.abs(self.codes.astype(np.int16)).max(initial=0))

    def coefficients(self, level: int) -> NDArray[np.float32]:
        """Ce of ``level``, float32 (matrices, rows, columns); exact, since every element is 0 or +-2^p."""
        magnitude = np.ldexp(np.float32(1), np.abs(self.codes.astype(np.int32)) - 1 + self.lowest)
        return np.where(self.kept(level), np.copysign(magnitude, self.codes), np.float32(0)).astype(np.float32)

    def basis(self, level: int) -> NDArray[np.float32]:
        """B of ``level``, float32 (matrices, columns, columns)."""
        return np.asarray(self.bases[0 if self.shared else level])

    def dense(self, level: int) -> NDArray[np.float32]:
        """The weights Ce B of ``level``, in the layer's shape; rounded once from float64."""
        product = self.coefficients(level).astype(np.float64) @ self.basis(level).astype(np.float64)
        return np.ascontiguousarray(self.slicing.join(product.astype(np.float32)))

    def nested(self) -> NestedWeights:
        """The same levels as plain nested weights.

        Raises
        ------
        InputError
            where a level's values differ from the denser one's: coefficients kept one by one, or a basis per level. Such
            weights are compared level by level, through :meth:`dense`.
        """
        if not (self.by_row and self.shared):
            raise InputError(
                f"{self.name}: only whole rows over one shared basis keep their values from level to level"
            )
        rows = np.where((self.codes != 0).any(axis=2), self.keep, np.uint8(0))[..., None]
        keep = self.slicing.join(np.broadcast_to(rows, self.codes.shape))
        values = self.dense(0)
        keep = np.where(values == 0, np.uint8(0), keep)  # padding, and products that happen to vanish
        return NestedWeights(values=values, keep=keep, levels=self.levels, name=self.name)

    def with_bits(self, *, coefficient_bits: int = COEFFICIENT_BITS, basis_bits: int = BASIS_BITS) -> BasisWeights:
        """What fits the stored form: see :func:`quantise_bases`; codes outside the exponent range are an error.

        Raises
        ------
        InputError
            if the codes span more exponents than ``coefficient_bits`` - 1 bits can tell apart.
        """
        allowed = 1 << (coefficient_bits - 1)
        if self.exponents > allowed:
            raise InputError(
                f"{self.name}: coefficients span {self.exponents} exponents, {coefficient_bits}-bit codes hold {allowed}; "
                f"decompose with a larger threshold, or with smallest = 2^{self.lowest + self.exponents - allowed}"
            )
        return replace(self, bases=quantise_bases(self.bases, bits=basis_bits))


def quantise_bases(bases: NDArray[np.float32], *, bits: int = BASIS_BITS) -> NDArray[np.float32]:
    """Round bases to ``bits``-bit fixed point with one binary point per layer, so that a shift aligns every product.

    Returns float32 multiples of 2^-f, f = the most fraction bits that hold the largest magnitude; error <= 2^-(f+1).
    """
    if not 2 <= bits <= 16:
        raise InputError(f"basis_bits = {bits}, allowed are 2 to 16")
    fraction = _fraction_bits(bases, bits)
    return np.ldexp(np.rint(np.ldexp(bases.astype(np.float64), fraction)), -fraction).astype(np.float32)


def basis_codes(
    bases: NDArray[np.float32], *, bits: int = BASIS_BITS, name: str = "weights"
) -> tuple[NDArray[np.int32], int]:
    """Integer codes c and fraction bits f of fixed-point bases: bases = c * 2^-f.

    Raises
    ------
    InputError
        if the bases were not rounded to ``bits`` bits.
    """
    fraction = _fraction_bits(bases, bits)
    codes = np.ldexp(bases.astype(np.float64), fraction)
    if not np.array_equal(codes, np.rint(codes)):
        raise InputError(f"{name}: bases are not {bits}-bit fixed point; round them with quantise_bases")
    return codes.astype(np.int32), fraction


def _fraction_bits(bases: NDArray[np.float32], bits: int) -> int:
    """The most fraction bits with which the largest magnitude still rounds to a code of ``bits`` bits."""
    peak = float(np.abs(bases).max(initial=0))
    return 0 if peak == 0 else int(np.floor(np.log2(((1 << (bits - 1)) - 0.5) / peak)))


def encode_powers(coefficients: NDArray[np.float64], *, name: str = "weights") -> tuple[NDArray[np.int8], int]:
    """Codes and the lowest exponent of an array whose elements are 0 or +-2^p.

    Raises
    ------
    InputError
        naming the first element that is no power of two, or if the exponents span more than 127.
    """
    fraction, exponent = np.frexp(np.abs(coefficients))
    wrong = (coefficients != 0) & (fraction != 0.5)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(f"{name}: coefficient {coefficients[first]} at {first} is not 0 or a signed power of two")
    used = exponent[coefficients != 0] - 1
    lowest = int(used.min(initial=0)) if used.size == 0 else int(used.min())
    if used.size and int(used.max()) - lowest >= 127:
        raise InputError(f"{name}: exponents span {int(used.max()) - lowest + 1} values, allowed are 127")
    codes = np.where(coefficients == 0, 0, np.sign(coefficients) * (exponent - lowest))
    return codes.astype(np.int8), lowest
