"""Storage of SmartDeal weights: bases, an index of what is kept, and 4-bit coefficient codes.

Each layout is bases first, then index and codes. ``Granularity``: the index tells whole coefficient rows apart (the
accelerator's vectors: every element of a kept row is stored, zeros included) or single coefficients (only non-zeros are
stored). ``Index``: ``direct`` is one bit per position and one file per level (SmartExchange's 1-bit direct index);
``tag`` stores one file, each position with the number of levels that keep it, read whole at every level; ``ordered`` is
one file whose levels are prefixes, the sparsest first, each with one bit per position that no sparser level fills.

A code is a sign bit and an exponent field. Rows need a code for zero, so 4 bits hold 7 exponents there and 8 otherwise.
Outside the streams, per layer: the lowest exponent and the bases' binary point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError
from ...workloads.smartdeal.basis_weights import BASIS_BITS, COEFFICIENT_BITS, BasisWeights, basis_codes
from .bitpack import BitReader, Section, bits_for, pack, to_codes, to_fields
from .storage import check_stored

Granularity = Literal["row", "element"]
Index = Literal["direct", "tag", "ordered"]


@dataclass(frozen=True, slots=True)
class CoefficientFormat:
    """One layout; ``coefficient_bits`` and ``basis_bits`` as in SmartExchange (4 and 8)."""

    granularity: Granularity
    index: Index
    coefficient_bits: int = COEFFICIENT_BITS
    basis_bits: int = BASIS_BITS

    @property
    def name(self) -> str:
        return f"smartdeal_{self.granularity}_{self.index}"

    @property
    def exponents(self) -> int:
        """Exponents that a code can tell apart."""
        magnitudes = 1 << (self.coefficient_bits - 1)
        return magnitudes - 1 if self.granularity == "row" else magnitudes

    def sizes(self, weights: BasisWeights) -> NDArray[np.int64]:
        """Bits read at each level, int64 (levels,), bases and index included."""
        keep = self._keep(weights)
        payload = self.coefficient_bits * (weights.slicing.columns if self.granularity == "row" else 1)
        kept = np.array([np.count_nonzero(keep > level) for level in range(weights.levels)], dtype=np.int64)
        bases = _elements(weights) * self.basis_bits
        if self.index == "direct":
            return np.asarray(bases + keep.size + kept * payload)
        if self.index == "tag":
            bits = bases + keep.size * bits_for(weights.levels + 1) + kept[0] * payload
            return np.full(weights.levels, bits, dtype=np.int64)
        sparser = np.append(kept[1:], 0)
        steps = keep.size - sparser + (kept - sparser) * payload  # a level's own index and codes
        return np.asarray(bases + steps[::-1].cumsum()[::-1])

    def encode(self, weights: BasisWeights, level: int) -> bytes:
        """The stream of one level: ceil(bits / 8) bytes.

        Raises
        ------
        InputError
            if the codes span more exponents than the format holds, or bases are not ``basis_bits``-bit fixed point.
        """
        if weights.exponents > self.exponents:
            raise InputError(
                f"{weights.name}: coefficients span {weights.exponents} exponents, '{self.name}' holds {self.exponents}"
            )
        keep = self._keep(weights)
        flat_codes = self._codes(weights)
        bases, _ = basis_codes(weights.basis(level), bits=self.basis_bits, name=weights.name)
        sections: list[Section] = [(to_fields(bases.reshape(-1).astype(np.int64), self.basis_bits), self.basis_bits)]
        if self.index == "direct":
            kept = keep > level
            sections += [(kept.astype(np.uint64), 1), (flat_codes[kept].reshape(-1), self.coefficient_bits)]
        elif self.index == "tag":
            sections += [
                (keep.astype(np.uint64), bits_for(weights.levels + 1)),
                (flat_codes[keep > 0].reshape(-1), self.coefficient_bits),
            ]
        else:
            for step in range(weights.levels - 1, level - 1, -1):
                added = keep == step + 1
                sections.append((added[keep <= step + 1].astype(np.uint64), 1))
                sections.append((flat_codes[added].reshape(-1), self.coefficient_bits))
        return pack(sections)

    def decode(self, data: bytes, weights: BasisWeights, level: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Codes of ``level`` (the shape of ``weights.codes``) and integer basis elements (matrices, columns, columns).

        Of ``weights`` only the shapes and the number of levels are read. Raises InputError for a stream that is cut off
        or holds a code that stands for nothing.
        """
        reader, s = BitReader(data), weights.slicing
        fields = reader.take(_elements(weights), self.basis_bits)
        bases = to_codes(fields, self.basis_bits).reshape(s.matrices, s.columns, s.columns)
        width = s.columns if self.granularity == "row" else 1
        positions = s.matrices * s.rows * s.columns // width
        out = np.zeros((positions, width), dtype=np.int8)
        if self.index == "ordered":
            free = np.arange(positions)
            for _ in range(weights.levels - level):
                filled = reader.take(free.size, 1) != 0
                out[free[filled]] = self._read_codes(reader, int(np.count_nonzero(filled)), width)
                free = free[~filled]
        else:
            keep = reader.take(positions, 1 if self.index == "direct" else bits_for(weights.levels + 1))
            check_stored(int(keep.max(initial=0)) <= weights.levels, "a tag exceeds the number of levels")
            out[keep > 0] = self._read_codes(reader, int(np.count_nonzero(keep)), width)
            if self.index == "tag":
                out[keep <= level] = 0
        return out.reshape(weights.codes.shape), bases

    def _keep(self, weights: BasisWeights) -> NDArray[np.uint8]:
        """Levels that keep each position, flat: rows (matrices*rows,) or coefficients; never a row of zeros only."""
        if self.granularity == "element":
            keep = weights.keep[..., None] if weights.by_row else weights.keep
            return np.asarray(np.where(weights.codes == 0, np.uint8(0), keep).reshape(-1))
        if not weights.by_row:
            raise InputError(f"{weights.name}: levels keep single coefficients; '{self.name}' stores whole rows")
        return np.asarray(np.where((weights.codes == 0).all(axis=2), np.uint8(0), weights.keep).reshape(-1))

    def _codes(self, weights: BasisWeights) -> NDArray[np.uint64]:
        """Stored fields (positions, elements per position): sign bit, then the magnitude (rows: 0 = zero)."""
        magnitude = np.abs(weights.codes.astype(np.int64))
        if self.granularity == "element":
            magnitude = magnitude - 1  # zeros are not stored, so the first exponent is field 0
        sign = (weights.codes < 0).astype(np.int64) << (self.coefficient_bits - 1)
        fields = (np.maximum(magnitude, 0) | sign).astype(np.uint64)
        return np.asarray(fields.reshape(-1, weights.slicing.columns if self.granularity == "row" else 1))

    def _read_codes(self, reader: BitReader, count: int, width: int) -> NDArray[np.int8]:
        fields = reader.take(count * width, self.coefficient_bits).astype(np.int64)
        magnitude = fields & ((1 << (self.coefficient_bits - 1)) - 1)
        negative = fields >> (self.coefficient_bits - 1) != 0
        if self.granularity == "element":
            magnitude = magnitude + 1
        else:
            check_stored(not (negative & (magnitude == 0)).any(), "a coefficient code is a negative zero")
        return np.where(negative, -magnitude, magnitude).astype(np.int8).reshape(count, width)


def _elements(weights: BasisWeights) -> int:
    """Basis elements read at one level."""
    return weights.slicing.matrices * weights.slicing.columns**2


#: Name -> layout. Row layouts need row-wise levels.
COEFFICIENT_FORMATS: dict[str, CoefficientFormat] = {
    entry.name: entry
    for entry in (
        CoefficientFormat("row", "direct"),
        CoefficientFormat("row", "tag"),
        CoefficientFormat("row", "ordered"),
        CoefficientFormat("element", "direct"),
        CoefficientFormat("element", "tag"),
        CoefficientFormat("element", "ordered"),
    )
}


def coefficient_bytes(weights: BasisWeights) -> dict[str, NDArray[np.int64]]:
    """Bytes read per level, int64 (levels,), of every layout that can hold the weights; bases per level are stored per
    level, so the ``tag`` and ``ordered`` files of refitted weights carry all of them and every level reads its own."""
    fits = {
        name: layout
        for name, layout in COEFFICIENT_FORMATS.items()
        if weights.exponents <= layout.exponents and (weights.by_row or layout.granularity == "element")
    }
    return {name: -(-layout.sizes(weights) // 8) for name, layout in fits.items()}
